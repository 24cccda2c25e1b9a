package dataapi

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

var (
	_ rest.NamedCreater = &runSignal{}
	_ rest.NamedCreater = &runCancel{}
	_ rest.NamedCreater = &runSuspend{}
)

// request checks what was posted to a subresource, and returns it.
func request[T runtime.Object](ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc) (T, error) {
	posted, ok := object.(T)
	if !ok {
		return posted, apierrors.NewBadRequest(fmt.Sprintf("a body of %T: want %T", object, posted))
	}
	if validate != nil {
		return posted, validate(ctx, object)
	}
	return posted, nil
}

// runSignal serves runs/signal: it sends a signal for which the run waits. As always, all runs
// that wait for a signal of this name receive it.
type runSignal struct{ reader }

func (*runSignal) New() runtime.Object { return &datav1alpha1.RunSignal{} }
func (*runSignal) Destroy()            {}

// Create sends the signal, and returns it with the runs that have received it. Without a run
// that waits for it the signal is not kept, so the answer is a conflict then.
func (s *runSignal) Create(ctx context.Context, id string, object runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	posted, err := request[*datav1alpha1.RunSignal](ctx, object, validate)
	if err != nil {
		return nil, err
	}
	if posted.Signal == "" {
		return nil, apierrors.NewInvalid(datav1alpha1.GroupVersion.WithKind("RunSignal").GroupKind(), id,
			field.ErrorList{field.Required(field.NewPath("signal"), "name the signal to send")})
	}
	if openworkflow.IsApprovalSignal(posted.Signal) {
		return nil, apierrors.NewInvalid(datav1alpha1.GroupVersion.WithKind("RunSignal").GroupKind(), id,
			field.ErrorList{field.Forbidden(field.NewPath("signal"), "only decisions send it: use kubectl workflow approve, or deny")})
	}
	signal := store.Signal{Name: posted.Signal}
	if posted.Data != nil {
		signal.Data = posted.Data.Raw
	}
	if posted.IdempotencyKey != "" {
		signal.IdempotencyKey = &posted.IdempotencyKey
	}
	out := posted.DeepCopy()
	err = s.findStored(ctx, genericapirequest.NamespaceValue(ctx), id, func(db *database, run *store.RunView) error {
		out.ObjectMeta = objectMeta(&run.Run, genericapirequest.NamespaceValue(ctx))
		if err := s.awaited(ctx, db, run, posted.Signal, posted.IdempotencyKey != ""); err != nil || len(o.DryRun) > 0 {
			return err
		}
		recipients, err := db.SendSignals(ctx, []store.Signal{signal})
		if err != nil {
			return err
		}
		out.Recipients = recipients[0]
		return db.Notify(ctx)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// awaited returns a conflict if the run does not wait for the signal. A signal with a key may
// have been delivered before.
func (s *runSignal) awaited(ctx context.Context, db *database, run *store.RunView, signal string, keyed bool) error {
	if keyed {
		return nil
	}
	waits, err := db.View(readTimeout).AwaitedSignals(ctx, run.ID)
	if err != nil || slices.Contains(waits, signal) {
		return err
	}
	state, _ := projection.State(&run.Run)
	waitsFor := "no signal"
	if len(waits) > 0 {
		waitsFor = fmt.Sprintf("the signals %q", waits)
	}
	return apierrors.NewConflict(resource, run.ID, fmt.Errorf("the run is %s and waits for %s, not for %q", state, waitsFor, signal))
}

// runCancel serves runs/cancel.
type runCancel struct{ reader }

func (*runCancel) New() runtime.Object { return &datav1alpha1.RunCancel{} }
func (*runCancel) Destroy()            {}

// Create cancels the run, and those below it if asked to. A canceled run stays canceled; one
// that has ended otherwise is a conflict.
func (s *runCancel) Create(ctx context.Context, id string, object runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	posted, err := request[*datav1alpha1.RunCancel](ctx, object, validate)
	if err != nil {
		return nil, err
	}
	out := posted.DeepCopy()
	err = s.findStored(ctx, genericapirequest.NamespaceValue(ctx), id, func(db *database, run *store.RunView) error {
		out.ObjectMeta = objectMeta(&run.Run, genericapirequest.NamespaceValue(ctx))
		status := run.Status
		if len(o.DryRun) == 0 {
			var err error
			if status, err = cancel(ctx, db, id, posted.Children); err != nil {
				return err
			}
		}
		run.Status = status
		state, _ := projection.State(&run.Run)
		if status.Terminal() && status != openworkflow.RunCanceled {
			return apierrors.NewConflict(resource, id, fmt.Errorf("the run has ended already: it is %s", state))
		}
		out.State = string(state)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// cancel cancels a run and returns its status. Its parent and clients that await it are woken.
func cancel(ctx context.Context, db *database, id string, children bool) (openworkflow.RunStatus, error) {
	call := db.CancelRuns
	if children {
		call = db.CancelTree
	}
	statuses, err := call(ctx, []string{id})
	if err != nil {
		return "", err
	}
	if err := db.Notify(ctx); err != nil {
		return "", err
	}
	return statuses[id], db.NotifyEnds(ctx)
}

// runSuspend serves runs/suspend.
type runSuspend struct{ reader }

func (*runSuspend) New() runtime.Object { return &datav1alpha1.RunSuspend{} }
func (*runSuspend) Destroy()            {}

// Create suspends or resumes a run. The run of a WorkflowRun follows that object's spec, so it
// is a conflict.
func (s *runSuspend) Create(ctx context.Context, id string, object runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	posted, err := request[*datav1alpha1.RunSuspend](ctx, object, validate)
	if err != nil {
		return nil, err
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	out := posted.DeepCopy()
	err = s.findStored(ctx, namespace, id, func(db *database, run *store.RunView) error {
		out.ObjectMeta = objectMeta(&run.Run, namespace)
		if run.Status.Terminal() {
			state, _ := projection.State(&run.Run)
			return apierrors.NewConflict(resource, id, fmt.Errorf("the run has ended already: it is %s", state))
		}
		if name := s.objectOf(&run.Run, namespace); name != "" {
			return apierrors.NewConflict(resource, id, fmt.Errorf("the run follows WorkflowRun %q: set its spec.suspend", name))
		}
		if len(o.DryRun) > 0 {
			return nil
		}
		return setSuspended(ctx, db, id, posted.Suspend)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func setSuspended(ctx context.Context, db *database, id string, suspend bool) error {
	if suspend {
		_, err := db.SuspendRuns(ctx, []string{id})
		return err
	}
	if _, err := db.ResumeRuns(ctx, []string{id}); err != nil {
		return err
	}
	return db.Notify(ctx)
}
