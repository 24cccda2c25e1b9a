package dataapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// maxForks is the number of forks that are made at once in one database: each reads the history of
	// its source into memory.
	maxForks = 2
	// maxOutputs is the number of corrected results, and maxStepName the length of a step's name.
	maxOutputs, maxStepName = 64, 4096
)

// runFork serves runs/fork.
type runFork struct{ reader }

var (
	_ rest.NamedCreater    = &runFork{}
	_ rest.StorageMetadata = &runFork{}
)

func (*runFork) New() runtime.Object { return &datav1alpha1.RunFork{} }
func (*runFork) Destroy()            {}

// ProducesMIMETypes and ProducesObject say that the answer is a run.
func (*runFork) ProducesMIMETypes(string) []string { return nil }

// ProducesObject returns the kind of the answer.
func (*runFork) ProducesObject(string) any { return datav1alpha1.Run{} }

// Create starts the new run and returns it. An open run is a conflict: a run that goes on beside
// its fork would do the same work twice.
func (s *runFork) Create(ctx context.Context, id string, object runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	posted, err := request[*datav1alpha1.RunFork](ctx, object, validate)
	if err != nil {
		return nil, err
	}
	if errs := validateFork(posted); len(errs) > 0 {
		return nil, invalidFork(id, errs)
	}
	var out *datav1alpha1.Run
	err = s.find(ctx, genericapirequest.NamespaceValue(ctx), id, func(db *database, source *store.RunView) (err error) {
		if !source.Status.Terminal() {
			return notEnded(source)
		}
		if len(o.DryRun) > 0 {
			out = &datav1alpha1.Run{Spec: datav1alpha1.RunSpec{
				Backend: db.backend, WorkflowName: source.WorkflowName, Version: text(source.Version),
			}, Status: datav1alpha1.RunStatus{State: string(v1alpha1.RunPending), ForkedFrom: source.ID}}
			return nil
		}
		out, err = s.fork(ctx, db, source, posted)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// fork makes the new run and reads it.
func (s *runFork) fork(ctx context.Context, db *database, source *store.RunView, posted *datav1alpha1.RunFork) (*datav1alpha1.Run, error) {
	defer db.forks.Add(-1)
	if db.forks.Add(1) > maxForks {
		return nil, apierrors.NewTooManyRequests("other runs are being forked in this database", 1)
	}
	asked := forkRequest(source.ID, posted)
	result, err := db.Fork(ctx, asked)
	switch {
	case errors.Is(err, store.ErrInvalidFork):
		return nil, invalidFork(source.ID, field.ErrorList{field.Invalid(field.NewPath("step"), text(posted.Step),
			strings.TrimPrefix(err.Error(), store.ErrInvalidFork.Error()+": "))})
	case errors.Is(err, store.ErrNotFound):
		return nil, apierrors.NewNotFound(resource, source.ID)
	case errors.Is(err, store.ErrNotEnded):
		return nil, notEnded(source)
	case err != nil:
		return nil, err
	}
	made, err := db.View(readTimeout).Run(ctx, result.RunID)
	if err != nil {
		return nil, err
	}
	if made == nil { // it was removed since
		return nil, apierrors.NewNotFound(resource, result.RunID)
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	if err := s.keyConflict(made, asked.Run.ID, posted.IdempotencyKey, namespace); err != nil {
		return nil, err
	}
	return new(s.runOf(made, db.backend, namespace)), nil
}

func invalidFork(id string, errs field.ErrorList) error {
	return apierrors.NewInvalid(datav1alpha1.GroupVersion.WithKind("RunFork").GroupKind(), id, errs)
}

func notEnded(source *store.RunView) error {
	state, _ := projection.State(&source.Run)
	return apierrors.NewConflict(resource, source.ID, fmt.Errorf("the run has not ended, it is %s: cancel it first (runs/cancel)", state))
}

// validateFork returns what is wrong with a request, whatever the run is that it forks.
func validateFork(f *datav1alpha1.RunFork) field.ErrorList {
	errs := validateTimes(nil, f.AvailableAt, f.DeadlineAt, f.TimeoutSeconds)
	if f.Step != nil && f.LastFailed {
		errs = append(errs, field.Forbidden(field.NewPath("lastFailed"),
			"give step or lastFailed, not both: step names the first step to execute again, lastFailed means the one that made the run fail"))
	}
	if f.Step != nil && len(*f.Step) > maxStepName {
		errs = append(errs, field.TooLong(field.NewPath("step"), "", maxStepName))
	}
	if len(f.IdempotencyKey) > maxKey {
		errs = append(errs, field.TooLong(field.NewPath("idempotencyKey"), "", maxKey))
	}
	if c := v1alpha1.ForkChildren(f.Children); c != "" && c != v1alpha1.ForkKeepChildren && c != v1alpha1.ForkRestartChildren {
		errs = append(errs, field.NotSupported(field.NewPath("children"), f.Children,
			[]string{string(v1alpha1.ForkKeepChildren), string(v1alpha1.ForkRestartChildren)}))
	}
	return append(errs, validateOutputs(f)...)
}

func validateOutputs(f *datav1alpha1.RunFork) (errs field.ErrorList) {
	outputs := field.NewPath("outputs")
	if len(f.Outputs) > 0 && f.Step == nil && !f.LastFailed {
		errs = append(errs, field.Forbidden(outputs, "outputs need step or lastFailed: without them the run starts from nothing and takes over no results"))
	}
	if len(f.Outputs) > maxOutputs {
		return append(errs, field.TooMany(outputs, len(f.Outputs), maxOutputs))
	}
	seen := map[string]bool{}
	for i, output := range f.Outputs {
		if len(output.Step) > maxStepName {
			errs = append(errs, field.TooLong(outputs.Index(i).Child("step"), "", maxStepName))
		} else if seen[output.Step] {
			errs = append(errs, field.Duplicate(outputs.Index(i).Child("step"), output.Step))
		}
		seen[output.Step] = true
	}
	return errs
}

func forkRequest(source string, f *datav1alpha1.RunFork) store.ForkRequest {
	r := store.ForkRequest{
		Source: source, Run: store.NewRun{ID: openworkflow.NewID()},
		From:            store.ForkPoint{Step: f.Step, LastFailed: f.LastFailed},
		RestartChildren: f.Children == string(v1alpha1.ForkRestartChildren),
	}
	if f.Input != nil {
		r.Run.Input = f.Input.Raw
	}
	if f.IdempotencyKey != "" {
		r.Run.IdempotencyKey = &f.IdempotencyKey
	}
	if f.AvailableAt != nil {
		r.Run.AvailableAt = &f.AvailableAt.Time
	}
	if f.DeadlineAt != nil {
		r.Run.DeadlineAt = &f.DeadlineAt.Time
	}
	if f.TimeoutSeconds != nil {
		r.Run.Timeout = time.Duration(*f.TimeoutSeconds) * time.Second
	}
	for _, output := range f.Outputs {
		if r.Outputs == nil {
			r.Outputs = make(map[string]json.RawMessage, len(f.Outputs))
		}
		r.Outputs[output.Step] = json.RawMessage("null")
		if output.Value != nil {
			r.Outputs[output.Step] = output.Value.Raw
		}
	}
	return r
}
