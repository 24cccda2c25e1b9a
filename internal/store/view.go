package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// View reads runs for people and tools, who may ask for anything at any time: each call is a
// read-only transaction that the server ends after a time. It never counts rows.
type View struct {
	store   *Store
	timeout time.Duration
}

// View returns a View whose statements the server ends after the timeout.
func (s *Store) View(timeout time.Duration) *View { return &View{store: s, timeout: timeout} }

// RunView is a run without its payloads: input and output are nil, and of the error only its
// name is kept.
type RunView struct {
	openworkflow.Run
	// ParentRunID is the run that started this one, empty if there is none.
	ParentRunID string
	// ArchivedAt is when the run was archived and removed, nil for one in the tables.
	ArchivedAt *time.Time
}

// ViewFilter selects runs. Its zero value selects all.
type ViewFilter struct {
	// WorkflowName selects runs of this workflow, of any version.
	WorkflowName string
	// States selects runs in one of these states. Empty means all.
	States []RunState
	// ParentRunID selects the children of a run.
	ParentRunID string
	// CreatedFrom and CreatedBefore bound the time of the run's creation: from is included,
	// before is not. Zero means no bound.
	CreatedFrom, CreatedBefore time.Time
}

// RunState is what a ViewFilter selects by: the states that people see, which rows do not
// have.
type RunState int

// States of runs. The status of the row, whether a worker holds it and whether it waits decide
// (R40).
const (
	StatePending RunState = iota
	StateRunning
	StateWaiting
	StateCompleted
	StateFailed
	StateCanceled
)

// isReleased says that the parked run r was given back to go on at once. isDue is true for all
// of those: it lets the planner find them by workflow_runs_status_available_at_created_at_idx.
const (
	isReleased = `coalesce(r.available_at <= r.updated_at, false)`
	isDue      = `r.available_at <= now()`
)

// heldRuns are the runs that workers hold. There are never more of them than workers have slots,
// so they are found by operator_runs_lease_idx and primary keys, and sorted. OFFSET 0 keeps the
// planner from reading all open runs in the order of the list instead.
const heldRuns = `(
	SELECT held.*
	FROM (
		SELECT l.namespace_id, l.id
		FROM {schema}.workflow_runs l
		WHERE l.namespace_id = $1 AND l.status = 'running' AND l.worker_id IS NOT NULL
		OFFSET 0
	) l
	CROSS JOIN LATERAL (
		SELECT *
		FROM {schema}.workflow_runs h
		WHERE h.namespace_id = l.namespace_id AND h.id = l.id
		OFFSET 0
	) held
)`

// allRuns are the runs of any state.
const allRuns = `{schema}.workflow_runs`

// stateRanges are the parts of the tables in which runs of a state are.
var stateRanges = map[RunState][]stateRange{
	StatePending: {
		{allRuns, openworkflow.RunPending, ""},
		{allRuns, openworkflow.RunRunning, "AND r.worker_id IS NULL AND " + isDue + " AND " + isReleased},
		{allRuns, openworkflow.RunSleeping, "AND " + isDue + " AND " + isReleased},
	},
	StateRunning: {{heldRuns, openworkflow.RunRunning, "AND r.worker_id IS NOT NULL"}},
	StateWaiting: {
		{allRuns, openworkflow.RunRunning, "AND r.worker_id IS NULL AND NOT " + isReleased},
		{allRuns, openworkflow.RunSleeping, "AND NOT " + isReleased},
	},
	StateCompleted: {{allRuns, openworkflow.RunCompleted, ""}, {allRuns, openworkflow.RunSucceeded, ""}},
	StateFailed:    {{allRuns, openworkflow.RunFailed, ""}},
	StateCanceled:  {{allRuns, openworkflow.RunCanceled, ""}},
}

// stateRange is a part of the tables: where its rows come from, their status, and a condition on
// them.
type stateRange struct {
	from      string
	status    openworkflow.RunStatus
	condition string
}

// viewColumns are runColumns without payloads, and the parent's id. Of the context there is what names
// the run's object and its schedule, and of the error its name. Texts are cut, but not the id.
var viewColumns = viewedColumns.Replace(runColumns) + `,
	coalesce((
		SELECT ` + shownText("a.workflow_run_id") + `
		FROM {schema}.step_attempts a
		WHERE a.namespace_id = r.parent_step_attempt_namespace_id AND a.id = r.parent_step_attempt_id
	), '')`

var viewedColumns = func() *strings.Replacer {
	replaced := []string{
		"r.context", shownReferences("r.context"), "r.input", "NULL::jsonb", "r.output", "NULL::jsonb", "r.error", nameOfError("r.error"),
	}
	texts := slices.Clone(shownTexts)
	for _, key := range []string{configForkedFrom, configForkStep, configSupersededBy} {
		texts = append(texts, configText("r", key))
	}
	for _, text := range texts {
		replaced = append(replaced, text, shownText(text))
	}
	return strings.NewReplacer(replaced...)
}()

// nameOfError is an error column with the name only.
func nameOfError(value string) string {
	return `CASE WHEN jsonb_typeof(` + value + ` -> 'name') = 'string' THEN jsonb_build_object('name', left(` + value + ` ->> 'name', 253)) END`
}

// viewAllSQL reads workflow_runs_created_at_desc_idx from the cursor on. The planner gets only
// the conditions that apply.
var viewAllSQL = `
SELECT ` + viewColumns + `
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 {conditions}
ORDER BY r.created_at DESC, r.id DESC
LIMIT $2`

// viewRangeSQL reads one range of workflow_runs_status_created_at_desc_idx, or with a name of
// workflow_runs_workflow_name_status_created_at_desc_idx. The parentheses let it be a part of a
// UNION ALL, of which each part stops at the limit.
const viewRangeSQL = `(
	SELECT r.*
	FROM {from} r
	WHERE r.namespace_id = $1 AND r.status = '{status}' {named} {range} {conditions}
	ORDER BY r.created_at DESC, r.id DESC
	LIMIT $2
)`

// viewRangesSQL merges ranges.
var viewRangesSQL = `
SELECT ` + viewColumns + `
FROM (
	{ranges}
) r
ORDER BY r.created_at DESC, r.id DESC
LIMIT $2`

// viewChildrenSQL finds the children of a run by their attempts:
// step_attempts_workflow_run_created_at_idx, then primary keys.
var viewChildrenSQL = `
SELECT ` + viewColumns + `
FROM (
	SELECT DISTINCT a.child_workflow_run_namespace_id AS namespace_id, a.child_workflow_run_id AS id
	FROM {schema}.step_attempts a
	WHERE a.namespace_id = $1 AND a.workflow_run_id = {parent} AND a.child_workflow_run_id IS NOT NULL
) child
JOIN {schema}.workflow_runs r USING (namespace_id, id)
WHERE r.namespace_id = $1 {named} {states} {conditions}
ORDER BY r.created_at DESC, r.id DESC
LIMIT $2`

// Runs returns a page of up to limit of the runs that the filter selects, newest first, after the
// cursor if there is one.
func (v *View) Runs(ctx context.Context, f ViewFilter, after *openworkflow.Cursor, limit int) (ViewPage[RunView], error) {
	q := viewQuery{args: []any{v.store.namespace, limit + 1}}
	sql := q.runs(f, after)
	return readPage(ctx, v, limit, scanRunView, sql, q.args)
}

// viewQuery builds the text of a statement and its arguments.
type viewQuery struct{ args []any }

// arg adds an argument, and returns its place in the text.
func (q *viewQuery) arg(value any) string {
	q.args = append(q.args, value)
	return fmt.Sprintf("$%d", len(q.args))
}

func (q *viewQuery) runs(f ViewFilter, after *openworkflow.Cursor) string {
	conditions := q.conditions(f, after)
	named := ""
	if f.WorkflowName != "" {
		named = "AND r.workflow_name = " + q.arg(f.WorkflowName)
	}
	switch {
	case f.ParentRunID != "":
		return strings.NewReplacer("{parent}", q.arg(f.ParentRunID), "{named}", named,
			"{states}", inStates(f.States), "{conditions}", conditions).Replace(viewChildrenSQL)
	case named == "" && len(f.States) == 0:
		return strings.Replace(viewAllSQL, "{conditions}", conditions, 1)
	}
	var parts []string
	for _, r := range rangesOf(f.States) {
		parts = append(parts, strings.NewReplacer("{from}", r.from, "{status}", string(r.status), "{named}", named,
			"{range}", r.condition, "{conditions}", conditions).Replace(viewRangeSQL))
	}
	return strings.Replace(viewRangesSQL, "{ranges}", strings.Join(parts, "\n\tUNION ALL\n\t"), 1)
}

// conditions bound the creation of runs.
func (q *viewQuery) conditions(f ViewFilter, after *openworkflow.Cursor) string {
	var text strings.Builder
	if after != nil {
		fmt.Fprintf(&text, " AND (r.created_at, r.id) < (%s, %s)", q.arg(after.CreatedAt), q.arg(after.ID))
	}
	if !f.CreatedFrom.IsZero() {
		text.WriteString(" AND r.created_at >= " + q.arg(f.CreatedFrom))
	}
	if !f.CreatedBefore.IsZero() {
		text.WriteString(" AND r.created_at < " + q.arg(f.CreatedBefore))
	}
	return text.String()
}

// rangesOf returns the parts of the tables that have runs in these states. Without a state it
// is one for each status, because no index has the order of creation for the name alone.
func rangesOf(states []RunState) (ranges []stateRange) {
	if len(states) == 0 {
		for _, status := range allStatuses {
			ranges = append(ranges, stateRange{from: allRuns, status: openworkflow.RunStatus(status)})
		}
		return ranges
	}
	states = slices.Clone(states)
	slices.Sort(states)
	for _, state := range slices.Compact(states) {
		ranges = append(ranges, stateRanges[state]...)
	}
	return ranges
}

// inStates is the condition that a run is in one of the states.
func inStates(states []RunState) string {
	if len(states) == 0 {
		return ""
	}
	var parts []string
	for _, r := range rangesOf(states) {
		parts = append(parts, "r.status = '"+string(r.status)+"' "+r.condition)
	}
	return "AND (" + strings.Join(parts, " OR ") + ")"
}

// viewRunSQL uses the primary key.
var viewRunSQL = `
SELECT ` + viewColumns + `
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.id = $2`

// Run returns a run, nil if it does not exist.
func (v *View) Run(ctx context.Context, id string) (*RunView, error) {
	if !storableID(id) {
		return nil, nil
	}
	var found *RunView
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		run, err := scanRunView(row)
		found = &run
		return err
	}, v.store.sql(viewRunSQL), v.store.namespace, id)
	return found, Classify(err)
}

func scanRunView(row pgx.CollectableRow) (RunView, error) {
	var parent string
	run, err := scanRunAnd(row, &parent)
	return RunView{Run: run, ParentRunID: parent}, err
}

// viewFullRunSQL uses the primary key.
var viewFullRunSQL = `
SELECT ` + runColumns + `
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 AND r.id = $2`

// FullRun returns a run with its payloads, nil if it does not exist.
func (v *View) FullRun(ctx context.Context, id string) (*openworkflow.Run, error) {
	if !storableID(id) {
		return nil, nil
	}
	var found *openworkflow.Run
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		run, err := scanRun(row)
		found = &run
		return err
	}, v.store.sql(viewFullRunSQL), v.store.namespace, id)
	return found, Classify(err)
}

// viewStepsSQL reads step_attempts_workflow_run_created_at_idx in its order.
const viewStepsSQL = `
SELECT {columns}
FROM {schema}.step_attempts a
WHERE a.namespace_id = $1 AND a.workflow_run_id = $3 {after}
ORDER BY a.created_at, a.id
LIMIT $2`

// withoutPayload are stepColumns without the output. Of the error there is its name, and of a long
// context the signal. Texts are cut, but not the id.
var withoutPayload = strings.NewReplacer(
	"a.step_name", shownText("a.step_name"), "a.kind", shownText("a.kind"), "a.status", shownText("a.status"),
	"a.context", shownWait("a.context"), "a.output", "NULL::jsonb", "a.error", nameOfError("a.error"),
	"a.child_workflow_run_id", shownText("a.child_workflow_run_id"),
).Replace(stepColumns)

// Steps returns up to limit of the step attempts of a run, oldest first, after the cursor if
// there is one. Without payloads, outputs are nil, and of the errors only the names are kept.
// A run that does not exist has none.
func (v *View) Steps(ctx context.Context, runID string, payloads bool, after *openworkflow.Cursor, limit int) ([]openworkflow.StepAttempt, error) {
	if !storableID(runID) {
		return nil, nil
	}
	q := viewQuery{args: []any{v.store.namespace, limit, runID}}
	columns, position := withoutPayload, ""
	if payloads {
		columns = stepColumns
	}
	if after != nil {
		position = fmt.Sprintf("AND (a.created_at, a.id) > (%s, %s)", q.arg(after.CreatedAt), q.arg(after.ID))
	}
	var steps []openworkflow.StepAttempt
	err := v.read(ctx, func(row pgx.CollectableRow) error {
		step, err := scanStep(row)
		steps = append(steps, step)
		return err
	}, v.store.sql(strings.NewReplacer("{columns}", columns, "{after}", position).Replace(viewStepsSQL)), q.args...)
	return steps, Classify(err)
}

// read runs a query in a read-only transaction of one round trip. The settings are those of
// the transaction, so they hold behind a transaction pooler too, and end with it.
func (v *View) read(ctx context.Context, next func(pgx.CollectableRow) error, sql string, args ...any) error {
	return v.readAll(ctx, func(b *sqlBatch) { b.collect(next, sql, args...) })
}

// viewGrace is how much longer than the server a View waits for the end of its statements: for a
// connection, and for the answer.
const viewGrace = 2 * time.Second

// readAll is read for several queries. A server that hangs ends none of them, so ctx ends too.
func (v *View) readAll(ctx context.Context, queue func(b *sqlBatch)) error {
	ctx, cancel := context.WithTimeout(ctx, v.timeout+viewGrace)
	defer cancel()
	var b sqlBatch
	b.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY`)
	b.Queue(fmt.Sprintf(`SET LOCAL statement_timeout = %d`, v.timeout.Milliseconds()))
	queue(&b)
	b.Queue(`COMMIT`)
	return v.store.send(ctx, &b)
}

// viewSignalsSQL reads step_attempts_workflow_run_created_at_idx.
const viewSignalsSQL = `
SELECT DISTINCT a.context ->> 'signal'
FROM {schema}.step_attempts a
WHERE a.namespace_id = $1 AND a.workflow_run_id = $2 AND a.kind = 'signal-wait' AND a.status = 'running'
	AND a.context ->> 'signal' IS NOT NULL
ORDER BY 1
LIMIT 100`

// AwaitedSignals returns the names of the signals that a run waits for, at most 100.
func (v *View) AwaitedSignals(ctx context.Context, runID string) (names []string, err error) {
	if !storableID(runID) {
		return nil, nil
	}
	err = v.read(ctx, func(row pgx.CollectableRow) error {
		var name string
		err := row.Scan(&name)
		names = append(names, name)
		return err
	}, v.store.sql(viewSignalsSQL), v.store.namespace, runID)
	return names, Classify(err)
}
