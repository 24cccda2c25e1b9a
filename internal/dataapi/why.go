package dataapi

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
)

// maxLevels bounds the runs below a run of which an answer tells.
const maxLevels = 5

var _ rest.Getter = &runWhy{}

// runWhy serves runs/why: what a run waits for, in one sentence. It reads by keys: a handful of
// rows of the run, and of each of the runs below for which it waits.
type runWhy struct {
	reader
	tables
}

func (*runWhy) New() runtime.Object { return &datav1alpha1.RunWhy{} }
func (*runWhy) Destroy()            {}

// Get explains a run. A database that does not answer is an explanation too, unless another one
// has the run.
func (s *runWhy) Get(ctx context.Context, id string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	backends, err := s.databases.list(ctx, namespace, "")
	if err != nil {
		return nil, err
	}
	showErrors, err := s.allowed(ctx, "payload", id)
	if err != nil {
		return nil, err
	}
	var silent *v1alpha1.Backend
	for i := range backends {
		var out *datav1alpha1.RunWhy
		err := s.databases.use(ctx, namespace, backends[i].Name, func(open []*database) error {
			var err error
			out, err = s.explain(ctx, open[0], namespace, id, showErrors)
			return answer(ctx, open[0], err)
		})
		switch {
		case ctx.Err() != nil:
			return nil, answer(ctx, nil, ctx.Err())
		case apierrors.IsServiceUnavailable(err), apierrors.IsTimeout(err):
			silent = &backends[i]
		case err != nil:
			return nil, err
		case out != nil:
			return out, nil
		}
	}
	if silent != nil {
		return silentBackend(silent, id), nil
	}
	return nil, apierrors.NewNotFound(resource, id)
}

// silentBackend is the answer for a run that may be in a database that does not answer.
func silentBackend(object *v1alpha1.Backend, id string) *datav1alpha1.RunWhy {
	out := &datav1alpha1.RunWhy{
		ObjectMeta: metav1.ObjectMeta{Name: id, Namespace: object.Namespace},
		Reason:     v1alpha1.ReasonBackendNotReady, Backend: object.Name,
		Message: fmt.Sprintf("the database of Backend %q does not answer this replica of the manager, so nothing is known of the run", object.Name),
		Next:    "try again; if it stays, look at the Backend and at the manager's log",
	}
	if c := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Status != metav1.ConditionTrue {
		out.Message = fmt.Sprintf("Backend %q is not ready (%s): %s", object.Name, c.Reason, c.Message)
		out.Since, out.Next = &c.LastTransitionTime, "look at the Backend"
	}
	return out
}

// explain returns nil if the database does not have the run.
func (s *runWhy) explain(ctx context.Context, db *database, namespace, id string, showErrors bool) (*datav1alpha1.RunWhy, error) {
	view := db.View(readTimeout)
	first, err := view.Why(ctx, id)
	if err == nil && first == nil {
		first, err = archivedWhy(ctx, db, id)
	}
	if err != nil || first == nil {
		return nil, err
	}
	f, err := s.fleet(ctx, db, namespace)
	if err != nil {
		return nil, err
	}
	chain := []*store.WhyView{first}
	for len(chain) <= maxLevels {
		child := childOf(chain[len(chain)-1])
		if child == "" {
			break
		}
		below, err := view.Why(ctx, child)
		if err != nil {
			return nil, err
		}
		if below == nil {
			break
		}
		chain = append(chain, below)
	}
	var out *datav1alpha1.RunWhy
	for i, run := range slices.Backward(chain) { // from the lowest run up
		seen := whySeen{WhyView: run, fleet: f, errors: showErrors, object: s.objectOf(&run.Run, namespace)}
		if out != nil {
			seen.child, seen.childID = out, chain[i+1].Run.ID
		}
		if err := s.complete(ctx, view, &seen, namespace); err != nil {
			return nil, err
		}
		out = whyOf(&seen, objectMeta(&run.Run, namespace), db.backend)
	}
	return out, nil
}

// archivedWhy returns what says how a run of the archives has ended, nil if they do not have it.
func archivedWhy(ctx context.Context, db *database, id string) (*store.WhyView, error) {
	run, err := archivedRun(ctx, db, id, true)
	if err != nil || run == nil {
		return nil, err
	}
	return &store.WhyView{Run: run.Run, Now: time.Now()}, nil
}

// childOf returns the id of the newest child that a run waits for, empty if there is none.
func childOf(view *store.WhyView) string {
	if view.Run.Status.Terminal() {
		return ""
	}
	for i := len(view.Waits) - 1; i >= 0; i-- {
		if w := &view.Waits[i]; !w.Over && w.ChildWorkflowRunID != nil {
			return *w.ChildWorkflowRunID
		}
	}
	return ""
}

// complete reads what only some states need.
func (s *runWhy) complete(ctx context.Context, view *store.View, seen *whySeen, namespace string) (err error) {
	switch store.HoldOf(&seen.Run, seen.Now, seen.fleet.ServedKeys()) {
	case store.NotHeld:
		if seen.Run.AvailableAt.After(seen.Now) { // given back
			return nil
		}
		seen.ahead, err = view.QueuedBefore(ctx, &seen.Run)
	case store.HoldSuspended:
		if seen.object != "" {
			seen.manager, err = s.databases.suspendedBy(ctx, namespace, seen.object)
		}
	default:
	}
	return err
}

// suspendedBy returns the field manager that has set spec.suspend of a WorkflowRun, empty if it is
// not known.
func (d *Databases) suspendedBy(ctx context.Context, namespace, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	object := &metav1.PartialObjectMetadata{}
	object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRun"))
	if err := d.Secrets.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, object); err != nil {
		return "", client.IgnoreNotFound(err)
	}
	newest, at := "", time.Time{}
	for _, entry := range object.ManagedFields {
		var fields struct {
			Spec map[string]json.RawMessage `json:"f:spec"`
		}
		if entry.FieldsV1 == nil || json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil || fields.Spec["f:suspend"] == nil {
			continue
		}
		if entry.Time == nil || !entry.Time.Time.Before(at) {
			newest = entry.Manager
			if entry.Time != nil {
				at = entry.Time.Time
			}
		}
	}
	return newest, nil
}

// pools returns the WorkerPools of a Backend.
func (d *Databases) pools(ctx context.Context, namespace, backendName string) ([]v1alpha1.WorkerPool, error) {
	var list v1alpha1.WorkerPoolList
	if err := d.Backends.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list WorkerPools of %s: %w", namespace, err)
	}
	var pools []v1alpha1.WorkerPool
	for i := range list.Items {
		if backend.NameOf(list.Items[i].Spec.BackendRef) == backendName {
			pools = append(pools, list.Items[i])
		}
	}
	return pools, nil
}

// allowed asks the API server whether the caller may get a subresource of a run, too.
func (r *reader) allowed(ctx context.Context, subresource, id string) (bool, error) {
	return r.may(ctx, "runs", subresource, id)
}

// may asks the API server whether the caller may get a resource of their namespace.
func (r *reader) may(ctx context.Context, resource, subresource, name string) (bool, error) {
	caller, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return false, nil
	}
	decision, _, err := r.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: caller, Verb: "get", Namespace: genericapirequest.NamespaceValue(ctx), APIGroup: datav1alpha1.GroupVersion.Group,
		APIVersion: datav1alpha1.GroupVersion.Version, Resource: resource, Subresource: subresource, Name: name, ResourceRequest: true,
	})
	if err != nil {
		return false, fmt.Errorf("ask whether the caller may get %s/%s: %w", resource, subresource, err)
	}
	return decision == authorizer.DecisionAllow, nil
}
