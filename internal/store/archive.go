package store

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// archiveVersion is the version of the format of an archive, which docs/archive.md describes.
const archiveVersion = 1

// Bounds of an archive. They hold what RemoveRuns keeps in memory to a few MiB, and what it costs
// to read one run back to a fraction of a second.
const (
	// archiveText is the length of the text of an archive of several runs, before compression.
	archiveText = 2 << 20
	// maxArchivedRun and maxArchivedRow are the longest texts of a run with all its rows, and of one
	// of these rows, that are archived. A larger run stays in the tables.
	maxArchivedRun, maxArchivedRow = 64 << 20, 16 << 20
	// archiveChunk is the length of a part of a row on the way here, and that of a part of an archive.
	archiveChunk = 256 << 10
	// minSizes and maxSizes are how many lengths of rows are fetched at once, at first and at most: of
	// 4 MiB of text, and of 128 MiB.
	minSizes, maxSizes = 16, 512
	// archiveFetch is the number of chunks that are fetched at once of a run with long rows. Other
	// archives are fetched whole.
	archiveFetch = 16
)

// archiveSizesSQL opens a cursor on the lengths of the rows of the runs $2: of each run its row, then
// those of its attempts. A length is that of the row's text, or of its values if they alone are longer
// than an archive takes. It is repeated for each $3 bytes, so that a FETCH measures a bounded text,
// and one row more. Primary key, and an index of step_attempts that begins with the run.
var archiveSizesSQL = declareSizes + `
SELECT ids.n, l.attempts, l.length, c.start = 0
FROM (SELECT $1::text AS namespace_id, id, n FROM unnest($2::text[]) WITH ORDINALITY ids (id, n) OFFSET 0) ids
CROSS JOIN LATERAL (
	(
		SELECT 0 AS attempts, ` + archivedLength("r", "config", "context", "input", "output", "error") + ` AS length
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id = ids.namespace_id AND r.id = ids.id
	)
	UNION ALL
	(
		SELECT 1, ` + archivedLength("a", "config", "context", "output", "error") + `
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = ids.namespace_id AND a.workflow_run_id = ids.id
	)
	OFFSET 0
) l
CROSS JOIN LATERAL generate_series(0, l.length, $3::bigint) c (start)`

const declareSizes = `DECLARE sizes NO SCROLL CURSOR FOR`

// archivedLength is the length of a row's text in an archive. Values that are too long for one are
// not put together: jsonb has limits.
func archivedLength(row string, values ...string) string {
	lengths := make([]string, len(values))
	for i, value := range values {
		lengths[i] = `coalesce(octet_length(` + row + `.` + value + `::text), 0)::bigint`
	}
	sum := strings.Join(lengths, " + ")
	return fmt.Sprintf(`(SELECT CASE WHEN v.length > %d THEN v.length ELSE octet_length(to_jsonb(%s)::text) END FROM (SELECT %s AS length OFFSET 0) v)`,
		maxArchivedRow, row, sum)
}

// archiveLinesSQL opens a cursor on the lines of an archive of the runs $2, cut into chunks: of
// each run its row, then those of its attempts, oldest first. Primary key, and
// step_attempts_workflow_run_created_at_idx in its order.
const archiveLinesSQL = declareArchive + `
SELECT substring(l.line FROM c.start + 1 FOR $3::int)
FROM (SELECT $1::text AS namespace_id, id, n FROM unnest($2::text[]) WITH ORDINALITY ids (id, n) OFFSET 0) ids
CROSS JOIN LATERAL (
	(
		SELECT convert_to(jsonb_build_object('run', to_jsonb(r))::text || E'\n', 'UTF8') AS line
		FROM {schema}.workflow_runs r
		WHERE r.namespace_id = ids.namespace_id AND r.id = ids.id
	)
	UNION ALL
	(
		SELECT convert_to(jsonb_build_object('step', to_jsonb(a))::text || E'\n', 'UTF8')
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = ids.namespace_id AND a.workflow_run_id = ids.id
		ORDER BY a.created_at, a.id
	)
	OFFSET 0
) l
CROSS JOIN LATERAL generate_series(0, octet_length(l.line) - 1, $3::int) c (start)`

const declareArchive = `DECLARE archive NO SCROLL CURSOR FOR`

// insertArchiveSQL begins an archive, and finishArchiveSQL completes it once its content is known.
const (
	insertArchiveSQL = `
INSERT INTO {schema}.operator_archives (namespace_id, id, archived_at, version, run_ids, length, sha256)
VALUES ($1, $2, now(), $3, $4, 0, '')`

	insertPartSQL = `
INSERT INTO {schema}.operator_archive_parts (namespace_id, archive_id, part, data) VALUES ($1, $2, $3, $4)`

	finishArchiveSQL = `
UPDATE {schema}.operator_archives SET length = $3, sha256 = $4 WHERE namespace_id = $1 AND id = $2`
)

// indexArchiveSQL enters the runs $3 into the index of archived runs, at their places in the archive
// $2. A run of the same id that was archived before is no longer found by it. The parent's row is
// still there, because a parent is removed after its children. Primary keys.
const indexArchiveSQL = `
INSERT INTO {schema}.operator_archived_runs (namespace_id, run_id, archive_id, position, parent_run_id, parent_step_attempt_id)
SELECT r.namespace_id, r.id, $2, ids.n - 1, a.workflow_run_id, a.id
FROM (SELECT $1::text AS namespace_id, id, n FROM unnest($3::text[]) WITH ORDINALITY ids (id, n) OFFSET 0) ids
JOIN {schema}.workflow_runs r USING (namespace_id, id)
LEFT JOIN {schema}.step_attempts a ON a.namespace_id = r.parent_step_attempt_namespace_id AND a.id = r.parent_step_attempt_id
ON CONFLICT (namespace_id, run_id) DO UPDATE SET archive_id = excluded.archive_id, position = excluded.position,
	parent_run_id = excluded.parent_run_id, parent_step_attempt_id = excluded.parent_step_attempt_id, superseded_by = NULL`

// archiveBatch is how many of the first runs are archived by one transaction.
type archiveBatch struct {
	runs int
	// large says that it is one run whose rows are longer than archiveText.
	large bool
	// tooLarge says that it is one run that cannot be archived.
	tooLarge bool
}

// archiveSizer adds up the rows of runs until a batch is known.
type archiveSizer struct {
	archiveBatch
	attempts int
	text     int64
}

// add counts a row of the run n, from 1. Full says that the batch is known: the runs before n fit, or
// the first one is too large.
func (z *archiveSizer) add(n, attempts int, length int64) (full bool) {
	z.runs = max(n-1, 1)
	if n > 1 && z.large {
		return true
	}
	z.attempts, z.text = z.attempts+attempts, z.text+length
	if n > 1 {
		return z.attempts > removeAttempts || z.text > archiveText
	}
	z.large = z.text > archiveText
	z.tooLarge = z.text > maxArchivedRun || length > maxArchivedRow
	return z.tooLarge
}

// countArchivable returns how many of the first runs fit into one archive, at least one. It measures
// no rows of the others, but for what is fetched together.
func (s *Store) countArchivable(ctx context.Context, ids []string) (archiveBatch, error) {
	var z archiveSizer
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.sql(archiveSizesSQL), s.namespace, ids, archiveChunk); err != nil {
			return err
		}
		for fetch := minSizes; ; fetch = min(2*fetch, maxSizes) {
			read, full, err := z.fetch(ctx, tx, fetch)
			if err != nil || full {
				return err
			}
			if read < fetch {
				z.runs = len(ids)
				return nil
			}
		}
	})
	return z.archiveBatch, err
}

// fetch adds the next rows of the cursor.
func (z *archiveSizer) fetch(ctx context.Context, tx pgx.Tx, n int) (read int, full bool, err error) {
	rows, err := tx.Query(ctx, fmt.Sprintf(`FETCH %d FROM sizes`, n))
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	for !full && rows.Next() {
		var run, attempts int
		var length int64
		var first bool
		if err := rows.Scan(&run, &attempts, &length, &first); err != nil {
			return 0, false, err
		}
		read++
		full = first && z.add(run, attempts, length)
	}
	return read, full, rows.Err()
}

// archive stores the runs, which the transaction has locked, as one archive. It keeps a few chunks
// in memory.
func (s *Store) archive(ctx context.Context, tx pgx.Tx, ids []string, large bool) error {
	w := &archiveWriter{store: s, ctx: ctx, tx: tx, id: openworkflow.NewID(), sum: sha256.New()}
	if _, err := tx.Exec(ctx, s.sql(insertArchiveSQL), s.namespace, w.id, archiveVersion, ids); err != nil {
		return err
	}
	text := gzip.NewWriter(w)
	header, err := json.Marshal(archiveLine{Archive: &archiveHeader{Version: archiveVersion, Runs: len(ids)}})
	if err != nil { // numbers always marshal
		panic(err)
	}
	if _, err := text.Write(append(header, '\n')); err != nil {
		return err
	}
	length := int64(len(header) + 1)
	if err := s.eachLine(ctx, tx, ids, large, func(chunk []byte) error {
		length += int64(len(chunk))
		_, err := text.Write(chunk)
		return err
	}); err != nil {
		return err
	}
	if err := text.Close(); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, s.sql(finishArchiveSQL), s.namespace, w.id, length, w.sum.Sum(nil)); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, s.sql(indexArchiveSQL), s.namespace, w.id, ids)
	return err
}

// eachLine calls f with the chunks of the lines of an archive.
func (s *Store) eachLine(ctx context.Context, tx pgx.Tx, ids []string, large bool, f func([]byte) error) error {
	if _, err := tx.Exec(ctx, s.sql(archiveLinesSQL), s.namespace, ids, archiveChunk); err != nil {
		return err
	}
	fetch := `FETCH ALL FROM archive`
	if large {
		fetch = fmt.Sprintf(`FETCH %d FROM archive`, archiveFetch)
	}
	for {
		rows, err := tx.Query(ctx, fetch)
		if err != nil {
			return err
		}
		chunks, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
		if err != nil {
			return err
		}
		for _, chunk := range chunks {
			if err := f(chunk); err != nil {
				return err
			}
		}
		if !large || len(chunks) < archiveFetch {
			_, err := tx.Exec(ctx, `CLOSE archive`)
			return err
		}
	}
}

// archiveWriter stores what is written to it as the parts of an archive.
type archiveWriter struct {
	store *Store
	ctx   context.Context // of the transaction
	tx    pgx.Tx
	id    string
	sum   hash.Hash
	data  []byte
	parts int
}

// Write adds to the last part, and stores parts that are complete.
func (w *archiveWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), archiveChunk-len(w.data))
		w.data, rest = append(w.data, rest[:n]...), rest[n:]
		if len(w.data) == archiveChunk {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (w *archiveWriter) flush() error {
	if len(w.data) == 0 {
		return nil
	}
	w.sum.Write(w.data)
	_, err := w.tx.Exec(w.ctx, w.store.sql(insertPartSQL), w.store.namespace, w.id, w.parts, w.data)
	w.data, w.parts = w.data[:0], w.parts+1
	return err
}

var _ io.Writer = (*archiveWriter)(nil)

// removeArchivesSQL removes those of the $3 oldest archives that were made $2 ago, and their runs
// from the index, unless a later archive has a run of the same id. Ids of archives are in the order
// of their creation. The parts are removed by their foreign key. Primary keys.
const removeArchivesSQL = `
WITH old AS MATERIALIZED (
	SELECT c.id, c.run_ids
	FROM (
		SELECT c.namespace_id, c.id, c.archived_at, c.run_ids
		FROM {schema}.operator_archives c
		WHERE c.namespace_id = $1
		ORDER BY c.id
		LIMIT $3
	) c
	WHERE c.archived_at < now() - $2::interval
), forgotten AS (
	DELETE FROM {schema}.operator_archived_runs i
	USING (SELECT $1::text AS namespace_id, old.id, unnest(old.run_ids) AS run_id FROM old) o
	WHERE i.namespace_id = o.namespace_id AND i.run_id = o.run_id AND i.archive_id = o.id
)
DELETE FROM {schema}.operator_archives c
USING old
WHERE c.namespace_id = $1 AND c.id = old.id`

// RemoveArchives removes up to limit archives that were made long enough ago, and returns their
// number.
func (s *Store) RemoveArchives(ctx context.Context, age time.Duration, limit int) (removed int, err error) {
	tag, err := s.pool.Exec(ctx, s.sql(removeArchivesSQL), s.namespace, age, limit)
	return int(tag.RowsAffected()), Classify(err)
}
