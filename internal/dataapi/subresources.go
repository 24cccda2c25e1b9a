package dataapi

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

var (
	_ rest.GetterWithOptions = &runSteps{}
	_ rest.GetterWithOptions = &runHistory{}
	_ rest.Getter            = &runPayload{}
	_ rest.Getter            = &runState{}
)

// readOptions returns the options of a request for a page.
func readOptions(object runtime.Object) (*datav1alpha1.ReadOptions, error) {
	o, ok := object.(*datav1alpha1.ReadOptions)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("options %T: want ReadOptions", object))
	}
	return o, nil
}

// convertReadOptions decodes the options of a request from its query.
func convertReadOptions(in, out any, _ conversion.Scope) error {
	query, o := *in.(*url.Values), out.(*datav1alpha1.ReadOptions)
	o.Continue = query.Get("continue")
	limit := query.Get("limit")
	if limit == "" {
		return nil
	}
	var err error
	if o.Limit, err = strconv.ParseInt(limit, 10, 64); err != nil {
		return fmt.Errorf("limit %q: want a number of step attempts", limit)
	}
	return nil
}

// runSteps serves runs/steps: the step attempts of a run, without payloads.
type runSteps struct {
	reader
	tables
}

func (*runSteps) New() runtime.Object { return &datav1alpha1.RunSteps{} }
func (*runSteps) Destroy()            {}
func (*runSteps) NewGetOptions() (runtime.Object, bool, string) {
	return &datav1alpha1.ReadOptions{}, false, ""
}

// Get returns a page of the step attempts, oldest first.
func (s *runSteps) Get(ctx context.Context, id string, options runtime.Object) (runtime.Object, error) {
	o, err := readOptions(options)
	if err != nil {
		return nil, err
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	out := &datav1alpha1.RunSteps{Items: []datav1alpha1.Step{}}
	err = s.find(ctx, namespace, id, func(db *database, run *store.RunView) error {
		return pageReads.within(ctx, func() error {
			steps, next, err := s.steps(ctx, db, run, o)
			if err != nil {
				return err
			}
			out.ObjectMeta, out.Continue = objectMeta(&run.Run, namespace), next
			for i := range steps {
				out.Items = append(out.Items, stepOf(&steps[i]))
			}
			return reserveAnswer(ctx, sizeOfSteps(steps))
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// runPayload serves runs/payload: the run's input, output and error, whole.
type runPayload struct {
	reader
	tables
}

func (*runPayload) New() runtime.Object { return &datav1alpha1.RunPayload{} }
func (*runPayload) Destroy()            {}

// Get returns the payload of a run.
func (s *runPayload) Get(ctx context.Context, id string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	var out *datav1alpha1.RunPayload
	err := s.find(ctx, namespace, id, func(db *database, found *store.RunView) error {
		return payloadReads.within(ctx, func() error {
			run, err := fullRun(ctx, db, found)
			if err != nil {
				return err
			}
			out = &datav1alpha1.RunPayload{
				ObjectMeta: objectMeta(run, namespace),
				Input:      jsonOf(run.Input), Output: jsonOf(run.Output), Error: jsonOf(run.Error),
			}
			return reserveAnswer(ctx, sizeOfPayload(run))
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// runState serves runs/state: what the run's workflow has published.
type runState struct {
	reader
	tables
}

func (*runState) New() runtime.Object { return &datav1alpha1.RunState{} }
func (*runState) Destroy()            {}

// Get returns the newest state of a run, without one if it has published none. That of an archived
// run is gone.
func (s *runState) Get(ctx context.Context, id string, _ *metav1.GetOptions) (runtime.Object, error) {
	out := &datav1alpha1.RunState{}
	err := s.find(ctx, genericapirequest.NamespaceValue(ctx), id, func(db *database, run *store.RunView) error {
		out.ObjectMeta = objectMeta(&run.Run, genericapirequest.NamespaceValue(ctx))
		published, err := db.View(readTimeout).Published(ctx, run.ID)
		if errors.Is(err, store.ErrSchemaMissing) { // of an earlier release
			return nil
		}
		if err == nil && published != nil {
			out.State, out.UpdatedAt = jsonOf(published.State), timeOf(&published.UpdatedAt)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// runHistory serves runs/history: a run with its step attempts and all payloads, for export.
type runHistory struct {
	reader
	tables
}

func (*runHistory) New() runtime.Object { return &datav1alpha1.RunHistory{} }
func (*runHistory) Destroy()            {}
func (*runHistory) NewGetOptions() (runtime.Object, bool, string) {
	return &datav1alpha1.ReadOptions{}, false, ""
}

// payloadSteps returns a page of the step attempts of a run with payloads, and the text of continue.
func payloadSteps(ctx context.Context, db *database, run *store.RunView, o *datav1alpha1.ReadOptions) (steps []openworkflow.StepAttempt, next string, err error) {
	cursor, err := parsePosition(o.Continue)
	if err != nil {
		return nil, "", err
	}
	steps, more, err := readPayloadSteps(ctx, db, run, cursor, min(limitOf(o.Limit), maxPayloadSteps))
	if err != nil {
		return nil, "", fmt.Errorf("read steps of run %s: %w", run.ID, err)
	}
	if more {
		last := &steps[len(steps)-1]
		next = position{last.CreatedAt, last.ID}.String()
	}
	return steps, next, nil
}

// readPayloadSteps is readSteps with payloads. More says that attempts follow.
func readPayloadSteps(ctx context.Context, db *database, run *store.RunView, after *openworkflow.Cursor, limit int) (steps []openworkflow.StepAttempt, more bool, err error) {
	view := db.View(readTimeout)
	if run.ArchivedAt == nil {
		return view.BoundedSteps(ctx, run.ID, after, limit)
	}
	archived, err := view.Archived(ctx, run.ID)
	if err != nil || archived == nil { // it was removed since
		return nil, false, err
	}
	err = archiveReads.within(ctx, func() error {
		steps, more, err = archived.BoundedSteps(ctx, after, limit)
		return err
	})
	return steps, more, err
}

// Get returns the run with a page of its step attempts.
func (s *runHistory) Get(ctx context.Context, id string, options runtime.Object) (runtime.Object, error) {
	o, err := readOptions(options)
	if err != nil {
		return nil, err
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	var out *datav1alpha1.RunHistory
	err = s.find(ctx, namespace, id, func(db *database, found *store.RunView) error {
		return payloadReads.within(ctx, func() (err error) {
			out, err = s.history(ctx, db, found, namespace, o)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (s *runHistory) history(ctx context.Context, db *database, found *store.RunView, namespace string, o *datav1alpha1.ReadOptions) (*datav1alpha1.RunHistory, error) {
	run, err := fullRun(ctx, db, found)
	if err != nil {
		return nil, err
	}
	steps, next, err := payloadSteps(ctx, db, found, o)
	if err != nil {
		return nil, err
	}
	shown := s.runOf(&store.RunView{Run: *run, ParentRunID: found.ParentRunID, ArchivedAt: found.ArchivedAt}, db.backend, namespace)
	out := &datav1alpha1.RunHistory{
		ObjectMeta: shown.ObjectMeta, Spec: shown.Spec, Status: shown.Status,
		Output: jsonOf(run.Output), Error: jsonOf(run.Error), Steps: []datav1alpha1.HistoryStep{}, Continue: next,
	}
	out.Spec.Input = jsonOf(run.Input)
	for i := range steps {
		out.Steps = append(out.Steps, datav1alpha1.HistoryStep{
			Step: stepOf(&steps[i]), Context: jsonOf(steps[i].Context), Output: jsonOf(steps[i].Output), Error: jsonOf(steps[i].Error),
		})
	}
	return out, reserveAnswer(ctx, sizeOfPayload(run)+sizeOfSteps(steps))
}

// sizeOfPayload returns how many bytes the payloads of a run have.
func sizeOfPayload(run *openworkflow.Run) int {
	return len(run.Input) + len(run.Output) + len(run.Error)
}

// sizeOfSteps returns how many bytes the texts and payloads of step attempts have.
func sizeOfSteps(steps []openworkflow.StepAttempt) (n int) {
	for i := range steps {
		a := &steps[i]
		n += len(a.ID) + len(a.StepName) + len(a.Context) + len(a.Output) + len(a.Error) + len(text(a.ChildWorkflowRunID))
	}
	return n
}
