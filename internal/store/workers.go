package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Worker is a runner process as it reported itself.
type Worker struct {
	PodUID string
	// Process is the nonce of the process's life, the second part of worker ids.
	Process string
	PodName string
	Pool    string
	// Workflows are what it serves.
	Workflows []openworkflow.Definition
	// SeenAt is the server's time of its last report. SaveWorker ignores it.
	SeenAt time.Time
}

// served is a Definition as the workflows column of operator_workers has it.
type served struct {
	Name    string  `json:"name"`
	Version *string `json:"version,omitempty"`
}

// saveWorkerSQL also forgets the processes that this one follows in its pod (a
// restarted container), and whoever was not seen for a day. It counts those that serve
// the same and were seen of late. Primary key.
const saveWorkerSQL = `
WITH forgotten AS (
	DELETE FROM {schema}.operator_workers
	WHERE namespace_id = $1
		AND (pod_uid = $2 AND process <> $3 OR seen_at < now() - interval '1 day' AND (pod_uid, process) <> ($2, $3))
), saved AS (
	INSERT INTO {schema}.operator_workers (namespace_id, pod_uid, process, pod_name, pool, workflows, seen_at)
	VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, now())
	ON CONFLICT (namespace_id, pod_uid, process) DO UPDATE
	SET pod_name = excluded.pod_name, pool = excluded.pool, workflows = excluded.workflows, seen_at = excluded.seen_at
)
SELECT 1 + count(*)
FROM {schema}.operator_workers
WHERE namespace_id = $1 AND pod_uid <> $2 AND workflows = $6::text::jsonb AND seen_at >= now() - $7::interval`

// SaveWorker records that the process is alive and what it serves. Of one pod it
// keeps only the last process that reported. It returns how many processes, this one
// included, serve the same and have reported within the given time.
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
		s.namespace, w.PodUID, w.Process, w.PodName, w.Pool, string(column), within).Scan(&peers)
	return peers, Classify(err)
}

const removeWorkerSQL = `
DELETE FROM {schema}.operator_workers WHERE namespace_id = $1 AND pod_uid = $2 AND process = $3`

// RemoveWorker forgets a process. One that is unknown is no error.
func (s *Store) RemoveWorker(ctx context.Context, podUID, process string) error {
	_, err := s.pool.Exec(ctx, s.sql(removeWorkerSQL), s.namespace, podUID, process)
	return Classify(err)
}

const workersSQL = `
SELECT pod_uid, process, pod_name, pool, workflows, seen_at
FROM {schema}.operator_workers
WHERE namespace_id = $1 AND seen_at >= now() - $2::interval
ORDER BY pool, pod_name, pod_uid, process`

// Workers returns the processes that reported within the given time, by the
// server's clock, ordered by pool and pod.
func (s *Store) Workers(ctx context.Context, within time.Duration) ([]Worker, error) {
	var workers []Worker
	err := s.eachRow(ctx, func(row pgx.CollectableRow) error {
		var w Worker
		var workflows []served
		if err := row.Scan(&w.PodUID, &w.Process, &w.PodName, &w.Pool, &workflows, &w.SeenAt); err != nil {
			return err
		}
		for _, d := range workflows {
			w.Workflows = append(w.Workflows, openworkflow.Definition(d))
		}
		workers = append(workers, w)
		return nil
	}, s.sql(workersSQL), s.namespace, within)
	return workers, Classify(err)
}
