package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// RunFilter selects runs (R130). Its zero value selects all.
type RunFilter struct {
	// Status selects runs of this status. Completed also finds the deprecated
	// succeeded, and running the deprecated sleeping, as CountRuns counts them.
	Status openworkflow.RunStatus
	// WorkflowName selects runs of this workflow, of any version.
	WorkflowName string
	// Brief leaves inputs and outputs out, which may be large.
	Brief bool
}

// Page selects a part of a list. Its zero value is the first page.
type Page struct {
	// After is the Next of a page: the list goes on there. Before is the Prev of
	// one: the page ends there. At most one of them may be set (R131).
	After, Before string
	// Limit is the largest number of items. 0 means DefaultPageLimit.
	Limit int
}

// DefaultPageLimit is the size of a page that says nothing about it (R130).
const DefaultPageLimit = 100

// RunPage is a part of a list of runs, newest first. Next and Prev are the
// cursors of its neighbours, empty where there is none.
type RunPage struct {
	Runs       []openworkflow.Run
	Next, Prev string
}

// StepPage is a part of a list of step attempts, oldest first. Next and Prev are
// the cursors of its neighbours, empty where there is none.
type StepPage struct {
	Steps      []openworkflow.StepAttempt
	Next, Prev string
}

// ErrTwoCursors is the error of a Page with both cursors. The text is
// OpenWorkflow's (R131).
var ErrTwoCursors = errors.New("Cannot specify both 'after' and 'before' cursors") //nolint:staticcheck // OpenWorkflow's text

// listRunsSQL reads workflow_runs_created_at_desc_idx in its order, from the cursor
// ($2, $3) on.
const listRunsSQL = `
SELECT ` + runColumns + `
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1
	AND ($2::timestamptz IS NULL OR (r.created_at, r.id) {after} ($2, $3))
ORDER BY r.created_at {order}, r.id {order}
LIMIT $4`

// listRunsOfSQL is listRunsSQL for runs of the statuses $5 and, unless that is
// empty, of the workflow $6. It reads one range for each status, of
// workflow_runs_workflow_name_status_created_at_desc_idx or
// workflow_runs_status_created_at_desc_idx, because a condition on the name alone
// has no index with this order.
const listRunsOfSQL = `
SELECT ` + runColumns + `
FROM unnest($5::text[]) s (status)
CROSS JOIN LATERAL (
	SELECT *
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.status = s.status AND ($6::text = '' OR r.workflow_name = $6)
		AND ($2::timestamptz IS NULL OR (r.created_at, r.id) {after} ($2, $3))
	ORDER BY r.created_at {order}, r.id {order}
	LIMIT $4
) r
ORDER BY r.created_at {order}, r.id {order}
LIMIT $4`

// listStepsSQL reads step_attempts_workflow_run_created_at_idx in its order, from the
// cursor ($2, $3) on.
const listStepsSQL = `
SELECT ` + stepColumns + `
FROM {schema}.step_attempts a
WHERE a.namespace_id = $1 AND a.workflow_run_id = $5
	AND ($2::timestamptz IS NULL OR (a.created_at, a.id) {after} ($2, $3))
ORDER BY a.created_at {order}, a.id {order}
LIMIT $4`

// allStatuses are the statuses that a run may have (R170).
var allStatuses = []openworkflow.RunStatus{
	openworkflow.RunPending, openworkflow.RunRunning, openworkflow.RunSleeping,
	openworkflow.RunCompleted, openworkflow.RunSucceeded, openworkflow.RunFailed, openworkflow.RunCanceled,
}

// ListRuns returns a page of the runs that the filter selects, newest first. It
// returns openworkflow.ErrInvalidCursor and ErrTwoCursors for a page that there is
// not.
func (s *Store) ListRuns(ctx context.Context, filter RunFilter, page Page) (RunPage, error) {
	sql, args := listRunsSQL, []any(nil)
	if filter.Status != "" || filter.WorkflowName != "" {
		sql, args = listRunsOfSQL, []any{filter.statuses(), filter.WorkflowName}
	}
	if filter.Brief {
		sql = strings.Replace(sql, "r.input, r.output", "NULL::jsonb, NULL::jsonb", 1)
	}
	runs, next, prev, err := list(ctx, s, sql, newestFirst, args, page, scanRun, func(r *openworkflow.Run) openworkflow.Cursor {
		return openworkflow.Cursor{CreatedAt: r.CreatedAt, ID: r.ID}
	})
	return RunPage{Runs: runs, Next: next, Prev: prev}, err
}

// statuses are those that rows with the filter's status may have.
func (f RunFilter) statuses() []openworkflow.RunStatus {
	switch f.Status {
	case "":
		return allStatuses
	case openworkflow.RunRunning:
		return []openworkflow.RunStatus{openworkflow.RunRunning, openworkflow.RunSleeping}
	case openworkflow.RunCompleted:
		return []openworkflow.RunStatus{openworkflow.RunCompleted, openworkflow.RunSucceeded}
	default:
		return []openworkflow.RunStatus{f.Status}
	}
}

// ListSteps returns a page of the step attempts of a run, oldest first. A run that
// does not exist has none.
func (s *Store) ListSteps(ctx context.Context, runID string, page Page) (StepPage, error) {
	steps, next, prev, err := list(ctx, s, listStepsSQL, oldestFirst, []any{runID}, page, scanStep, func(a *openworkflow.StepAttempt) openworkflow.Cursor {
		return openworkflow.Cursor{CreatedAt: a.CreatedAt, ID: a.ID}
	})
	return StepPage{Steps: steps, Next: next, Prev: prev}, err
}

// direction fills a list's order into its statement. What comes before a cursor is
// read in the opposite one.
type direction bool

const (
	oldestFirst direction = false
	newestFirst direction = true
)

var ascending, descending = strings.NewReplacer("{after}", ">", "{order}", "ASC"), strings.NewReplacer("{after}", "<", "{order}", "DESC")

func (d direction) fill(sql string) string {
	if d == newestFirst {
		return descending.Replace(sql)
	}
	return ascending.Replace(sql)
}

// list runs a list's statement for a page: $1 is the namespace, $2 and $3 the cursor,
// $4 the limit, and args follow.
func list[T any](
	ctx context.Context, s *Store, sql string, order direction, args []any, page Page,
	scan func(pgx.CollectableRow) (T, error), cursorOf func(*T) openworkflow.Cursor,
) (items []T, next, prev string, err error) {
	if page.After != "" && page.Before != "" {
		return nil, "", "", ErrTwoCursors
	}
	limit := page.Limit
	if limit <= 0 {
		limit = DefaultPageLimit
	}
	var at *time.Time
	var id string
	if text := page.After + page.Before; text != "" {
		cursor, err := openworkflow.ParseCursor(text)
		if err != nil {
			return nil, "", "", err
		}
		at, id = &cursor.CreatedAt, cursor.ID
	}
	back := page.Before != ""
	if back {
		order = !order
	}
	err = s.each(ctx, func(row pgx.CollectableRow) error {
		item, err := scan(row)
		items = append(items, item)
		return err
	}, s.sql(order.fill(sql)), append([]any{s.namespace, at, id, limit + 1}, args...)...)
	if err != nil {
		return nil, "", "", Classify(err)
	}
	more := len(items) > limit
	items = items[:min(limit, len(items))]
	if len(items) == 0 {
		return nil, "", "", nil
	}
	if back {
		slices.Reverse(items)
	}
	// R131
	if more || back {
		next = cursorOf(&items[len(items)-1]).String()
	}
	if back && more || page.After != "" {
		prev = cursorOf(&items[0]).String()
	}
	return items, next, prev, nil
}
