package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ErrPayloadTooLarge means that the values of one row have more than MaxPayload bytes.
var ErrPayloadTooLarge = errors.New("too large to be read")

const (
	// MaxPayload is how many bytes the values of a row may have that BoundedRun and BoundedSteps
	// return. It is that of rows in archives.
	MaxPayload = maxArchivedRow
	// payloadPage is how many bytes the values of a page of step attempts have, or it is one attempt.
	payloadPage = 8 << 20
	// Values come in chunks of payloadChunk bytes, payloadFetch in one answer: 8 MiB, of the 16 MiB
	// that an answer of an untrusted server may have.
	payloadChunk, payloadFetch = 256 << 10, 32
	// payloadTimeouts is how many timeouts of a View its reads of payloads take at most: a server that
	// hangs ends no statement.
	payloadTimeouts = 4
)

// declarePayloads begins a cursor on chunks of values: the id of the row, the number of the column
// among those of VALUES, and the chunk. Rows are in their order, and the chunks of a value too.
const declarePayloads = `DECLARE payloads NO SCROLL CURSOR FOR`

// chunksOf cuts the values of the rows a into chunks of $2 bytes. The server makes a text of one value
// at a time, when the first chunk of it is fetched.
func chunksOf(values string) string {
	return `
CROSS JOIN LATERAL (
	SELECT v.n, convert_to(v.value::text, 'UTF8') AS value
	FROM (VALUES ` + values + `) v (n, value)
	OFFSET 0
) v
CROSS JOIN LATERAL generate_series(0, octet_length(v.value) - 1, $2::int) c (start)`
}

const selectChunk = `
SELECT a.id, v.n, substring(v.value FROM c.start + 1 FOR $2::int)
FROM `

// boundedRunSQL reads a run without its values, and runPayloadsSQL the values. Primary key.
var (
	boundedRunSQL  = strings.Replace(viewFullRunSQL, "r.context, r.input, r.output, r.error", "NULL::jsonb, NULL::jsonb, NULL::jsonb, NULL::jsonb", 1)
	runPayloadsSQL = declarePayloads + selectChunk + `(
	SELECT r.id, r.context, r.input, r.output, r.error
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.id = $3
) a` + chunksOf(`(0, a.context), (1, a.input), (2, a.output), (3, a.error)`)
)

// boundedStepsSQL reads a page of attempts without their values, and stepPayloadsSQL the values.
// step_attempts_workflow_run_created_at_idx in its order.
var (
	boundedStepsSQL = strings.Replace(viewStepsSQL, "{columns}",
		strings.Replace(stepColumns, "a.context, a.output, a.error", "NULL::jsonb, NULL::jsonb, NULL::jsonb", 1), 1)
	stepPayloadsSQL = declarePayloads + selectChunk + `(
	SELECT a.id, a.context, a.output, a.error
	FROM {schema}.step_attempts a
	WHERE a.namespace_id = $1 AND a.workflow_run_id = $4 {after}
	ORDER BY a.created_at, a.id
	LIMIT $3
) a` + chunksOf(`(0, a.context), (1, a.output), (2, a.error)`)
)

// BoundedRun returns a run with its values, nil if it does not exist. It is FullRun for a server that
// somebody else runs: it reads the values in chunks, and ErrPayloadTooLarge says that they have more
// than MaxPayload bytes.
func (v *View) BoundedRun(ctx context.Context, id string) (*openworkflow.Run, error) {
	if !storableID(id) {
		return nil, nil
	}
	var found *openworkflow.Run
	payloads := payloadRow{}
	err := v.readPayloads(ctx, func(b *sqlBatch) {
		b.collect(func(row pgx.CollectableRow) error {
			run, err := scanRun(row)
			found = &run
			return err
		}, v.store.sql(boundedRunSQL), v.store.namespace, id)
		b.Queue(v.store.sql(runPayloadsSQL), v.store.namespace, payloadChunk, id)
	}, func(_ string, column int, chunk []byte) (bool, error) {
		if payloads.add(column, chunk) > MaxPayload {
			return false, payloadTooLarge("the context, input, output and error of run %s", cutText(id))
		}
		return true, nil
	})
	if err != nil || found == nil {
		return nil, Classify(err)
	}
	found.Context, found.Input, found.Output, found.Error = payloads.column(0), payloads.column(1), payloads.column(2), payloads.column(3)
	return found, nil
}

// BoundedSteps returns the step attempts of a run with their values, oldest first, after the cursor
// if there is one. A page ends at the limit, or before the values have more than 8 MiB, but has one
// attempt at least: more says that others follow. ErrPayloadTooLarge says that the values of the
// first have more than MaxPayload bytes. A run that does not exist has none.
func (v *View) BoundedSteps(ctx context.Context, runID string, after *openworkflow.Cursor, limit int) (steps []openworkflow.StepAttempt, more bool, err error) {
	if !storableID(runID) {
		return nil, false, nil
	}
	page := stepPage{limit: limit}
	err = v.readPayloads(ctx, func(b *sqlBatch) {
		heads := viewQuery{args: []any{v.store.namespace, limit + 1, runID}}
		sql := v.store.sql(heads.after(boundedStepsSQL, after)) // it adds to the arguments
		b.collect(func(row pgx.CollectableRow) error {
			step, err := scanStep(row)
			page.heads = append(page.heads, step)
			return err
		}, sql, heads.args...)
		values := viewQuery{args: []any{v.store.namespace, payloadChunk, limit, runID}}
		sql = v.store.sql(values.after(stepPayloadsSQL, after))
		b.Queue(sql, values.args...)
	}, page.addChunk)
	if err != nil {
		return nil, false, Classify(err)
	}
	steps, more = page.whole()
	return steps, more, nil
}

// after completes a statement that reads the attempts after a cursor.
func (q *viewQuery) after(sql string, cursor *openworkflow.Cursor) string {
	position := ""
	if cursor != nil {
		position = fmt.Sprintf("AND (a.created_at, a.id) > (%s, %s)", q.arg(cursor.CreatedAt), q.arg(cursor.ID))
	}
	return strings.Replace(sql, "{after}", position, 1)
}

func payloadTooLarge(format, id string) error {
	return fmt.Errorf("%s have more than %d MiB: %w", fmt.Sprintf(format, id), MaxPayload>>20, ErrPayloadTooLarge)
}

// readPayloads reads rows, and then chunks of their values from the cursor that the batch declares,
// until next returns false. It is one snapshot. The server ends each statement after the timeout.
func (v *View) readPayloads(ctx context.Context, queue func(b *sqlBatch), next func(id string, column int, chunk []byte) (more bool, err error)) error {
	ctx, cancel := context.WithTimeout(ctx, payloadTimeouts*v.timeout)
	defer cancel()
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	return pgx.BeginTxFunc(ctx, v.store.pool, options, func(tx pgx.Tx) error {
		var b sqlBatch
		b.Queue(fmt.Sprintf(`SET LOCAL statement_timeout = %d`, v.timeout.Milliseconds()))
		queue(&b)
		if err := tx.SendBatch(ctx, &b.Batch).Close(); err != nil {
			return err
		}
		for more := true; more; {
			var err error
			if more, err = fetchChunks(ctx, tx, next); err != nil {
				return err
			}
		}
		return nil
	})
}

// fetchChunks reads the next chunks. More says that others may follow.
func fetchChunks(ctx context.Context, tx pgx.Tx, next func(id string, column int, chunk []byte) (more bool, err error)) (more bool, err error) {
	rows, err := tx.Query(ctx, fmt.Sprintf(`FETCH %d FROM payloads`, payloadFetch))
	if err != nil {
		return false, err
	}
	defer rows.Close()
	n := 0
	for more = true; more && rows.Next(); n++ {
		var id string
		var column int
		var chunk []byte
		if err := rows.Scan(&id, &column, &chunk); err != nil {
			return false, err
		}
		if more, err = next(id, column, chunk); err != nil {
			return false, err
		}
	}
	return more && n == payloadFetch, rows.Err()
}

// payloadRow is what has arrived of the values of a row, by column.
type payloadRow struct {
	columns [4]json.RawMessage
	bytes   int
}

// add adds a chunk to a value, and returns how many bytes the row has.
func (r *payloadRow) add(column int, chunk []byte) int {
	if column >= 0 && column < len(r.columns) {
		r.columns[column] = append(r.columns[column], chunk...)
	}
	r.bytes += len(chunk)
	return r.bytes
}

// column returns a value as a column is read.
func (r *payloadRow) column(n int) json.RawMessage { return openworkflow.Column(r.columns[n]) }

// stepPage collects a page of step attempts with their values.
type stepPage struct {
	limit int
	// heads are the attempts of the page without values, and one more if there is one.
	heads []openworkflow.StepAttempt
	rows  []payloadRow
	bytes int
	// full says that the values of the attempt after the last of rows have no place in the page.
	full bool
}

// addChunk adds a chunk of an attempt. Chunks come in the order of the attempts, some of which have
// no values.
func (p *stepPage) addChunk(id string, column int, chunk []byte) (more bool, err error) {
	at := max(len(p.rows)-1, 0)
	for at < len(p.heads) && p.heads[at].ID != id {
		at++
	}
	if at == len(p.heads) {
		return false, fmt.Errorf("%w: values of a step attempt that it has not sent", ErrUnexpectedAnswer)
	}
	for len(p.rows) <= at {
		p.rows = append(p.rows, payloadRow{})
	}
	p.bytes += len(chunk)
	switch size := p.rows[at].add(column, chunk); {
	case at > 0 && p.bytes > payloadPage:
		p.rows, p.full = p.rows[:at], true
		return false, nil
	case size > MaxPayload:
		return false, payloadTooLarge("the context, output and error of step attempt %s", cutText(id))
	}
	return true, nil
}

// whole returns the page. More says that attempts follow.
func (p *stepPage) whole() (steps []openworkflow.StepAttempt, more bool) {
	steps, more = p.heads, p.full
	switch {
	case p.full:
		steps = steps[:len(p.rows)]
	case len(steps) > p.limit:
		steps, more = steps[:p.limit], true
	}
	for i := range steps[:min(len(steps), len(p.rows))] {
		steps[i].Context, steps[i].Output, steps[i].Error = p.rows[i].column(0), p.rows[i].column(1), p.rows[i].column(2)
	}
	return steps, more
}
