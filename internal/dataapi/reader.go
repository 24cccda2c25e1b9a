package dataapi

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// readTimeout is when the server ends a statement that reads.
	readTimeout = 5 * time.Second
	// defaultLimit and maxLimit bound the number of items of one answer.
	defaultLimit, maxLimit = 500, 1000
	// maxPages is the number of pages that are read for one answer, if some of their runs are left out.
	maxPages = 4
	// maxListBytes is how many bytes of texts a list has, but for its last item.
	maxListBytes = 2 << 20
	// maxPayloadSteps bounds the step attempts of a page with payloads: they may be large.
	maxPayloadSteps = 20
)

// reader reads runs of a namespace's databases.
type reader struct {
	databases *Databases
	// cluster is the uid of the kube-system namespace, which the contexts of runs name.
	cluster string
	// authorizer asks the API server what a caller may do.
	authorizer authorizer.Authorizer
	// attachAcross is Options.AttachAcrossNamespaces.
	attachAcross bool
}

// each calls f with each database of the request's namespace, or with that of one Backend. A database with a
// schema of an earlier release, which has not the table that f reads, counts as one that has no rows.
func (r *reader) each(ctx context.Context, backend string, f func(db *database) error) error {
	return r.databases.use(ctx, genericapirequest.NamespaceValue(ctx), backend, func(open []*database) error {
		for _, db := range open {
			if err := f(db); err != nil && !errors.Is(err, store.ErrSchemaMissing) {
				return answer(ctx, db, err)
			}
		}
		return nil
	})
}

// position is where a page of step attempts ends, as the text of continue.
type position struct {
	CreatedAt time.Time `json:"t"`
	ID        string    `json:"id"`
}

func (p position) String() string { return encodePosition(p) }

// encodePosition returns the text of continue for where a page ends.
func encodePosition(p any) string {
	raw, err := json.Marshal(p)
	if err != nil { // times and texts always marshal
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// decodePosition reads a text that encodePosition has made, which isValid accepts.
func decodePosition[P any](text string, isValid func(P) bool) (p P, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &p)
	}
	if err != nil || !isValid(p) {
		return p, apierrors.NewResourceExpired("the value of continue is not one of this list: start from the first page")
	}
	return p, nil
}

// parsePosition returns nil for no position.
func parsePosition(text string) (*openworkflow.Cursor, error) {
	if text == "" {
		return nil, nil
	}
	p, err := decodePosition(text, func(p position) bool { return p.ID != "" })
	if err != nil {
		return nil, err
	}
	return &openworkflow.Cursor{CreatedAt: p.CreatedAt, ID: p.ID}, nil
}

// limitOf returns the number of items of a page.
func limitOf(limit int64) int {
	if limit <= 0 {
		return defaultLimit
	}
	return int(min(limit, maxLimit))
}

// found is a run and the databases that have it: several, if several Backends name one database.
type found struct {
	store.RunView
	of []*database
}

// list returns a page of a namespace's runs, newest first.
func (r *reader) list(ctx context.Context, namespace string, selector fields.Selector, after string, limit int) (*datav1alpha1.RunList, error) {
	wanted, err := parseSelector(selector, namespace)
	if err != nil {
		return nil, err
	}
	position, err := parseListPosition[string](after)
	if err != nil {
		return nil, err
	}
	list := &datav1alpha1.RunList{Items: []datav1alpha1.Run{}}
	if wanted.none {
		return list, nil
	}
	err = r.databases.use(ctx, namespace, wanted.backend, func(open []*database) error {
		return pageReads.within(ctx, func() error {
			shown, err := r.readShown(ctx, open, wanted, namespace, &position, limit)
			if err != nil {
				return err
			}
			if shown.More {
				list.Continue = position.String()
			}
			size := store.Truncate(&shown, limit)
			for i := range shown.Items {
				list.Items = append(list.Items, r.runOf(&shown.Items[i].RunView, shown.Items[i].of[0].backend, namespace))
			}
			return reserveAnswer(ctx, size)
		})
	})
	return list, err
}

// readShown reads pages behind the position, and moves it, until it has as many runs as wanted, has read
// maxPages, or the runs are large: no index knows superseded runs or those with an object, of which
// there may be many in a row. So a page may have fewer runs than its limit, as Kubernetes allows.
func (r *reader) readShown(
	ctx context.Context, open []*database, wanted selected, namespace string, position *listPosition[string], limit int,
) (shown store.ViewPage[found], err error) {
	size := 0
	for range maxPages {
		page, err := readRuns(ctx, open, wanted, position, limit)
		if err != nil {
			return shown, err
		}
		for i := range page.Items {
			run := &page.Items[i]
			if shown.More = len(shown.Items) == limit || size > maxListBytes; shown.More {
				return shown, nil
			}
			position.pass(run.CreatedAt, run.ID, run.of)
			if wanted.shows(&run.RunView, r.objectOf(&run.Run, namespace)) {
				shown.Items = append(shown.Items, *run)
				size += run.Size()
			}
		}
		if shown.More = page.More; !page.More || len(shown.Items) == limit {
			break
		}
	}
	return shown, nil
}

// readRuns reads a page of runs behind a position.
func readRuns(ctx context.Context, open []*database, wanted selected, position *listPosition[string], limit int) (store.ViewPage[found], error) {
	return readMerged(ctx, open, limit, func(db *database) (page store.ViewPage[store.RunView], err error) {
		if wanted.id != "" {
			page.Items, err = readOne(ctx, db, wanted)
			return page, err
		}
		filter := wanted.ViewFilter
		id, at, passed := position.in(db)
		if passed {
			return db.View(readTimeout).Runs(ctx, filter, &openworkflow.Cursor{CreatedAt: at, ID: id}, limit)
		}
		filter.CreatedBefore = earlier(filter.CreatedBefore, at)
		return db.View(readTimeout).Runs(ctx, filter, nil, limit)
	}, func(run store.RunView, db *database) found {
		return found{run, []*database{db}}
	}, func(a, b *found) int {
		return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), strings.Compare(b.ID, a.ID))
	}, func(into, same *found) {
		into.of = append(into.of, same.of...)
	})
}

// earlier returns the bound of a list, newest first, that continues with the items of an instant. Postgres
// counts in microseconds. The zero time is no bound.
func earlier(bound, at time.Time) time.Time {
	if after := at.Add(time.Microsecond); !at.IsZero() && (bound.IsZero() || after.Before(bound)) {
		return after
	}
	return bound
}

// readOne finds the run that a selector names, if it has the other properties too.
func readOne(ctx context.Context, db *database, wanted selected) ([]store.RunView, error) {
	run, err := db.View(readTimeout).Run(ctx, wanted.id)
	if err != nil || run == nil {
		return nil, err
	}
	if !wanted.matches(run) {
		return nil, nil
	}
	return []store.RunView{*run}, nil
}

// find calls f with the database that has a run, in its tables or in an archive. Without one it
// returns NotFound.
func (r *reader) find(ctx context.Context, namespace, id string, f func(db *database, run *store.RunView) error) error {
	return r.databases.use(ctx, namespace, "", func(open []*database) error {
		for _, db := range open {
			run, err := db.View(readTimeout).Run(ctx, id)
			if err != nil {
				return answer(ctx, db, err)
			}
			if run != nil {
				return answer(ctx, db, f(db, run))
			}
		}
		for _, db := range open {
			run, err := archivedRun(ctx, db, id, false)
			if err != nil {
				return answer(ctx, db, err)
			}
			if run != nil {
				return answer(ctx, db, f(db, run))
			}
		}
		return apierrors.NewNotFound(resource, id)
	})
}

// findStored is find for a change of the run. For an archived one it returns a conflict.
func (r *reader) findStored(ctx context.Context, namespace, id string, f func(db *database, run *store.RunView) error) error {
	return r.find(ctx, namespace, id, func(db *database, run *store.RunView) error {
		if run.ArchivedAt != nil {
			state, _ := projection.State(&run.Run)
			return apierrors.NewConflict(resource, id, fmt.Errorf("the run has ended already: it is %s, and archived", state))
		}
		return f(db, run)
	})
}

// archivedRun reads a run from the archives of a database, nil if it is in none. A schema of an
// earlier release has no archives.
func archivedRun(ctx context.Context, db *database, id string, payloads bool) (run *store.RunView, err error) {
	found, err := db.View(readTimeout).Archived(ctx, id)
	if err != nil || found == nil {
		if errors.Is(err, store.ErrSchemaMissing) {
			err = nil
		}
		return nil, err
	}
	err = archiveReads.within(ctx, func() error {
		run, err = found.Run(ctx, payloads)
		return err
	})
	return run, err
}

// fullRun reads a run that was found, with its payloads. It returns NotFound if it was removed since.
func fullRun(ctx context.Context, db *database, found *store.RunView) (*openworkflow.Run, error) {
	if found.ArchivedAt == nil {
		run, err := db.View(readTimeout).BoundedRun(ctx, found.ID)
		if err != nil || run != nil {
			return run, err
		}
	}
	archived, err := archivedRun(ctx, db, found.ID, true)
	if err != nil {
		return nil, err
	}
	if archived == nil {
		return nil, apierrors.NewNotFound(resource, found.ID)
	}
	return &archived.Run, nil
}

// readSteps reads a page of the step attempts of a run that was found.
func readSteps(ctx context.Context, db *database, found *store.RunView, after *openworkflow.Cursor, limit int) (steps []openworkflow.StepAttempt, err error) {
	view := db.View(readTimeout)
	if found.ArchivedAt == nil {
		return view.Steps(ctx, found.ID, false, after, limit)
	}
	archived, err := view.Archived(ctx, found.ID)
	if err != nil || archived == nil { // it was removed since
		return nil, err
	}
	err = archiveReads.within(ctx, func() error {
		steps, err = archived.Steps(ctx, after, limit)
		return err
	})
	return steps, err
}

// steps returns a page of the step attempts of a run, and the text of continue.
func (r *reader) steps(ctx context.Context, db *database, run *store.RunView, o *datav1alpha1.ReadOptions) (steps []openworkflow.StepAttempt, next string, err error) {
	cursor, err := parsePosition(o.Continue)
	if err != nil {
		return nil, "", err
	}
	limit := limitOf(o.Limit)
	steps, err = readSteps(ctx, db, run, cursor, limit+1)
	if err != nil {
		return nil, "", fmt.Errorf("read steps of run %s: %w", run.ID, err)
	}
	if len(steps) > limit {
		steps = steps[:limit]
		next = position{steps[limit-1].CreatedAt, steps[limit-1].ID}.String()
	}
	return steps, next, nil
}
