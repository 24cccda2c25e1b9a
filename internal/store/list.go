package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// RunFilter selects runs (R130). Its zero value selects all.
type RunFilter struct {
	// Status selects runs of this status. As in CountRuns, completed includes the deprecated
	// succeeded, and running the deprecated sleeping.
	Status openworkflow.RunStatus
	// WorkflowName selects runs of this workflow, of any version.
	WorkflowName string
	// Brief leaves out inputs and outputs, which may be large.
	Brief bool
}

// Page selects a part of a list. Its zero value is the first page.
type Page struct {
	// After is the Next of a page: the list continues there. Before is the Prev of a page: the
	// list ends there. At most one of them may be set (R131).
	After, Before string
	// Limit is the largest number of items. 0 means DefaultPageLimit.
	Limit int
}

// DefaultPageLimit is the size of a page without a Limit (R130).
const DefaultPageLimit = 100

// RunPage is a part of a list of runs, newest first. Next and Prev are the cursors of the
// neighbouring pages, empty if there is none.
type RunPage struct {
	Runs       []openworkflow.Run
	Next, Prev string
}

// StepPage is a part of a list of step attempts, oldest first. Next and Prev are the cursors
// of the neighbouring pages, empty if there is none.
type StepPage struct {
	Steps      []openworkflow.StepAttempt
	Next, Prev string
}

// ErrTwoCursors is the error for a Page with both cursors. The text is OpenWorkflow's (R131).
var ErrTwoCursors = errors.New("Cannot specify both 'after' and 'before' cursors") //nolint:staticcheck // OpenWorkflow's text

// listRunsSQL reads workflow_runs_created_at_desc_idx in its order, starting at the cursor.
// Statements are planned without their arguments, so the text has only the conditions that
// apply.
var listRunsSQL = `
SELECT ` + runColumns + `
FROM {schema}.workflow_runs r
WHERE r.namespace_id = $1 {after}
ORDER BY r.created_at {order}, r.id {order}
LIMIT $2`

// listStatusesSQL is listRunsSQL for runs of the statuses $3. It reads one range of
// workflow_runs_status_created_at_desc_idx for each.
var listStatusesSQL = `
SELECT ` + runColumns + `
FROM unnest($3::text[]) s (status)
CROSS JOIN LATERAL (
	SELECT *
	FROM {schema}.workflow_runs r
	WHERE r.namespace_id = $1 AND r.status = s.status {named} {after}
	ORDER BY r.created_at {order}, r.id {order}
	LIMIT $2
) r
ORDER BY r.created_at {order}, r.id {order}
LIMIT $2`

// namedSQL is the condition {named} of listStatusesSQL for runs of the workflow $4. The
// statement then reads workflow_runs_workflow_name_status_created_at_desc_idx. A filter
// without a status asks for all statuses, because no index has this order for the name alone.
const namedSQL = `AND r.workflow_name = $4`

// listStepsSQL reads step_attempts_workflow_run_created_at_idx in its order, starting at the
// cursor.
const listStepsSQL = `
SELECT ` + stepColumns + `
FROM {schema}.step_attempts a
WHERE a.namespace_id = $1 AND a.workflow_run_id = $3 {after}
ORDER BY a.created_at {order}, a.id {order}
LIMIT $2`

// allStatuses are the statuses that a run may have (R170).
var allStatuses = []string{
	string(openworkflow.RunPending), string(openworkflow.RunRunning), string(openworkflow.RunSleeping),
	string(openworkflow.RunCompleted), string(openworkflow.RunSucceeded), string(openworkflow.RunFailed), string(openworkflow.RunCanceled),
}

// ListRuns returns a page of the runs that the filter selects, newest first. It returns
// openworkflow.ErrInvalidCursor or ErrTwoCursors for an invalid page.
func (s *Store) ListRuns(ctx context.Context, filter RunFilter, page Page) (RunPage, error) {
	runs, next, prev, err := list(ctx, s, filter.list(), page, scanRun, func(r *openworkflow.Run) openworkflow.Cursor {
		return openworkflow.Cursor{CreatedAt: r.CreatedAt, ID: r.ID}
	})
	return RunPage{Runs: runs, Next: next, Prev: prev}, err
}

// list returns the listing of the runs that the filter selects.
func (f RunFilter) list() listing {
	l := listing{sql: listRunsSQL, alias: "r", order: newestFirst}
	if f.Status != "" || f.WorkflowName != "" {
		l.sql, l.args = listStatusesSQL, []any{f.statuses()}
		named := ""
		if f.WorkflowName != "" {
			named, l.args = namedSQL, append(l.args, f.WorkflowName)
		}
		l.sql = strings.Replace(l.sql, "{named}", named, 1)
	}
	if f.Brief {
		l.sql = strings.Replace(l.sql, "r.input, r.output", "NULL::jsonb, NULL::jsonb", 1)
	}
	return l
}

// statuses returns the statuses in the rows that the filter's Status selects.
func (f RunFilter) statuses() []string {
	switch f.Status {
	case "":
		return allStatuses
	case openworkflow.RunRunning:
		return []string{string(f.Status), string(openworkflow.RunSleeping)}
	case openworkflow.RunCompleted:
		return []string{string(f.Status), string(openworkflow.RunSucceeded)}
	default:
		return []string{string(f.Status)}
	}
}

// ListSteps returns a page of the step attempts of a run, oldest first. A run that does not
// exist has none.
func (s *Store) ListSteps(ctx context.Context, runID string, page Page) (StepPage, error) {
	steps, next, prev, err := list(ctx, s, stepList(runID), page, scanStep, func(a *openworkflow.StepAttempt) openworkflow.Cursor {
		return openworkflow.Cursor{CreatedAt: a.CreatedAt, ID: a.ID}
	})
	return StepPage{Steps: steps, Next: next, Prev: prev}, err
}

func stepList(runID string) listing {
	return listing{sql: listStepsSQL, args: []any{runID}, alias: "a", order: oldestFirst}
}

// listing is a statement that reads a list. $1 is the namespace, $2 the limit, and args
// follow. The rows are of the table called alias.
type listing struct {
	sql   string
	args  []any
	alias string
	order direction
}

// direction is the order of a list.
type direction struct{ order, after string }

var (
	oldestFirst = direction{order: "ASC", after: ">"}
	newestFirst = direction{order: "DESC", after: "<"}
)

// statement returns the text and the arguments for the items after a cursor, or from the
// list's start if that is nil. Items before a cursor (back) are read in the opposite order.
func (l listing) statement(namespace string, cursor *openworkflow.Cursor, back bool, limit int) (sql string, args []any) {
	order := l.order
	if back && order == newestFirst {
		order = oldestFirst
	} else if back {
		order = newestFirst
	}
	args = append([]any{namespace, limit}, l.args...)
	after := ""
	if cursor != nil {
		after = fmt.Sprintf("AND (%s.created_at, %[1]s.id) %s ($%d, $%d)", l.alias, order.after, len(args)+1, len(args)+2)
		args = append(args, cursor.CreatedAt, cursor.ID)
	}
	return strings.NewReplacer("{after}", after, "{order}", order.order).Replace(l.sql), args
}

// list reads a page of a listing.
func list[T any](
	ctx context.Context, s *Store, l listing, page Page,
	scan func(pgx.CollectableRow) (T, error), cursorOf func(*T) openworkflow.Cursor,
) (items []T, next, prev string, err error) {
	if page.After != "" && page.Before != "" {
		return nil, "", "", ErrTwoCursors
	}
	var cursor *openworkflow.Cursor
	if text := page.After + page.Before; text != "" {
		at, err := openworkflow.ParseCursor(text)
		if err != nil {
			return nil, "", "", err
		}
		cursor = &at
	}
	limit := page.Limit
	if limit <= 0 {
		limit = DefaultPageLimit
	}
	back := page.Before != ""
	sql, args := l.statement(s.namespace, cursor, back, limit+1)
	err = s.eachRow(ctx, func(row pgx.CollectableRow) error {
		item, err := scan(row)
		items = append(items, item)
		return err
	}, s.sql(sql), args...)
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
