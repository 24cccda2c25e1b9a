package store

import (
	"context"
	"encoding/json"
	"time"
	"unique"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Worker is a worker process as it announced itself.
type Worker struct {
	PodUID string
	// Process is the nonce of the process, the second part of its worker ids.
	Process string
	// PodName is the name of the pod of a worker that reports the status of its runs. It is
	// empty if the worker does not: outside a pod, or in one that has no access to the API
	// server.
	PodName string
	Pool    string
	// Workflows are what it serves.
	Workflows []openworkflow.Definition
	// StuckSteps is how many functions of runs that are no longer the worker's do not return,
	// although their contexts have ended.
	StuckSteps int
	// Blocked says that such functions occupy all slots, so that the worker claims nothing.
	Blocked bool
	// SeenAt is the server's time of its last announcement. SaveWorker ignores it.
	SeenAt time.Time
}

// served is a Definition as it is encoded in the workflows column of operator_workers.
type served struct {
	Name    string  `json:"name"`
	Version *string `json:"version,omitempty"`
}

// saveWorkerSQL also deletes the earlier processes of the pod (its container restarted), and
// processes that were not seen for a day. It counts the processes that serve the same and were
// seen lately. Primary key.
const saveWorkerSQL = `
WITH forgotten AS (
	DELETE FROM {schema}.operator_workers
	WHERE namespace_id = $1
		AND (pod_uid = $2 AND process <> $3 OR seen_at < now() - interval '1 day' AND (pod_uid, process) <> ($2, $3))
), saved AS (
	INSERT INTO {schema}.operator_workers (namespace_id, pod_uid, process, pod_name, pool, workflows, stuck_steps, blocked, seen_at)
	VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $8, $9, now())
	ON CONFLICT (namespace_id, pod_uid, process) DO UPDATE
	SET pod_name = excluded.pod_name, pool = excluded.pool, workflows = excluded.workflows,
		stuck_steps = excluded.stuck_steps, blocked = excluded.blocked, seen_at = excluded.seen_at
)
SELECT 1 + count(*)
FROM {schema}.operator_workers
WHERE namespace_id = $1 AND pod_uid <> $2 AND workflows = $6::text::jsonb AND seen_at >= now() - $7::interval`

// SaveWorker announces that the process is live and what it serves. Only the last process of a
// pod that announced itself is kept. Peers is the number of processes, this one included, that
// serve the same and announced themselves within the given time.
func (s *Store) SaveWorker(ctx context.Context, w Worker, within time.Duration) (peers int, err error) {
	workflows := make([]served, 0, len(w.Workflows))
	for _, d := range w.Workflows {
		workflows = append(workflows, served(d))
	}
	column, err := json.Marshal(workflows)
	if err != nil {
		return 0, err
	}
	err = s.pool.QueryRow(ctx, s.sql(saveWorkerSQL),
		s.namespace, w.PodUID, w.Process, w.PodName, w.Pool, string(column), within, w.StuckSteps, w.Blocked).Scan(&peers)
	return peers, Classify(err)
}

const removeWorkerSQL = `
DELETE FROM {schema}.operator_workers WHERE namespace_id = $1 AND pod_uid = $2 AND process = $3`

// RemoveWorker deletes a process. An unknown one is no error.
func (s *Store) RemoveWorker(ctx context.Context, podUID, process string) error {
	_, err := s.pool.Exec(ctx, s.sql(removeWorkerSQL), s.namespace, podUID, process)
	return Classify(err)
}

// Bounds of an answer of Workers, which reads the newest announcements: their number, and the
// bytes of their texts.
const (
	MaxWorkers      = 1000
	maxWorkersBytes = 4 << 20
)

const workersSQL = `
SELECT pod_uid, process, pod_name, pool, workflows, stuck_steps, blocked, seen_at
FROM (
	SELECT *, sum(octet_length(concat(pod_uid, process, pod_name, pool, workflows))) OVER (ORDER BY seen_at DESC, pod_uid, process) AS bytes
	FROM (
		SELECT pod_uid, process, pod_name, pool, workflows, stuck_steps, blocked, seen_at
		FROM {schema}.operator_workers
		WHERE namespace_id = $1 AND seen_at >= now() - $2::interval
		ORDER BY seen_at DESC, pod_uid, process
		LIMIT $3
	) newest
) w
WHERE bytes <= $4
ORDER BY pool, pod_name, pod_uid, process`

// Workers returns the processes that announced themselves within the given time, by the
// server's clock, ordered by pool and pod. Of more than MaxWorkers, or of very long announcements,
// it returns the newest.
func (s *Store) Workers(ctx context.Context, within time.Duration) ([]Worker, error) {
	var workers []Worker
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		w, err := scanWorker(row)
		workers = append(workers, w)
		return err
	}, s.sql(workersSQL), s.namespace, within, MaxWorkers, maxWorkersBytes)
	return workers, Classify(err)
}

func scanWorker(row pgx.CollectableRow) (Worker, error) {
	var w Worker
	var workflows json.RawMessage
	err := row.Scan(&w.PodUID, &w.Process, &w.PodName, &w.Pool, (*jsonColumn)(&workflows), &w.StuckSteps, &w.Blocked, &w.SeenAt)
	w.Workflows = decodeServed(workflows)
	return w, err
}

// decodeServed reads the workflows column. A value of another shape is that of a worker that
// serves nothing: anybody who may write rows may write it, and the other workers are read with
// it.
func decodeServed(column json.RawMessage) (workflows []openworkflow.Definition) {
	var all []served
	if json.Unmarshal(column, &all) != nil {
		return nil
	}
	for _, d := range all {
		d.Name = unique.Make(d.Name).Value() // the same in all workers of a pool
		workflows = append(workflows, openworkflow.Definition(d))
	}
	return workflows
}
