package dataapi

import (
	"context"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/fleet"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// endedWindow is the time over which ends are counted.
const endedWindow = 5 * time.Minute

var (
	_ rest.Getter               = &workflows{}
	_ rest.Lister               = &workflows{}
	_ rest.Scoper               = &workflows{}
	_ rest.SingularNameProvider = &workflows{}
)

// workflows serves the resource workflows: what the runs of each workflow do now.
type workflows struct {
	reader
	tables
}

func (*workflows) New() runtime.Object     { return &datav1alpha1.Workflow{} }
func (*workflows) NewList() runtime.Object { return &datav1alpha1.WorkflowList{} }
func (*workflows) Destroy()                {}
func (*workflows) NamespaceScoped() bool   { return true }
func (*workflows) GetSingularName() string { return "workflow" }

// List returns all workflows of a namespace that have open runs, have ended some lately, or are
// served.
func (s *workflows) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	if err := plainList("workflows", namespace, o); err != nil {
		return nil, err
	}
	list := &datav1alpha1.WorkflowList{Items: []datav1alpha1.Workflow{}}
	err := s.databases.use(ctx, namespace, "", func(open []*database) error {
		return pageReads.within(ctx, func() error {
			for _, db := range open {
				if err := s.read(ctx, db, namespace, list); err != nil {
					return answer(ctx, db, err)
				}
			}
			return nil
		})
	})
	return list, err
}

// Get returns one of those that List returns, at the same cost. If several databases have a workflow of
// this name, it is that of the first Backend.
func (s *workflows) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	var found *datav1alpha1.Workflow
	err := s.databases.use(ctx, namespace, "", func(open []*database) error {
		for _, db := range open {
			var list datav1alpha1.WorkflowList
			if err := s.read(ctx, db, namespace, &list); err != nil {
				return answer(ctx, db, err)
			}
			for i := range list.Items {
				if list.Items[i].Name == name {
					found = &list.Items[i]
					return nil
				}
			}
		}
		return apierrors.NewNotFound(schema.GroupResource{Group: datav1alpha1.GroupVersion.Group, Resource: "workflows"}, name)
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// plainList rejects selectors and a missing namespace.
func plainList(resource, namespace string, o *internalversion.ListOptions) error {
	if namespace == "" {
		return apierrors.NewBadRequest(resource + " are listed by namespace: name one, without --all-namespaces")
	}
	if o != nil && (o.LabelSelector != nil && !o.LabelSelector.Empty() || o.FieldSelector != nil && !o.FieldSelector.Empty()) {
		return apierrors.NewBadRequest(resource + " cannot be selected by labels or fields")
	}
	return nil
}

func (s *workflows) read(ctx context.Context, db *database, namespace string, list *datav1alpha1.WorkflowList) error {
	view := db.View(readTimeout)
	f, err := s.fleet(ctx, db, namespace)
	if err != nil {
		return err
	}
	views, more, err := view.Workflows(ctx, f.Definitions(store.MaxWorkflows), endedWindow)
	if err != nil {
		return err
	}
	list.Truncated = list.Truncated || more
	slices.SortFunc(views, func(a, b store.WorkflowView) int {
		return strings.Compare(workflowName(a.Workflow), workflowName(b.Workflow))
	})
	for i := range views {
		list.Items = append(list.Items, workflowOf(&views[i], f, namespace, db.backend))
	}
	return nil
}

// fleet returns the pools and live workers of a database's Backend.
func (r *reader) fleet(ctx context.Context, db *database, namespace string) (*fleet.Fleet, error) {
	workers, err := db.View(readTimeout).Workers(ctx, fleet.LiveWithin)
	if err != nil {
		return nil, err
	}
	pools, err := r.databases.pools(ctx, namespace, db.backend)
	if err != nil {
		return nil, err
	}
	return fleet.New(db.backend, pools, workers), nil
}

func workflowName(d openworkflow.Definition) string {
	if d.Version == nil {
		return d.Name
	}
	return d.Name + "@" + *d.Version
}

func workflowOf(v *store.WorkflowView, f *fleet.Fleet, namespace, backendName string) datav1alpha1.Workflow {
	return datav1alpha1.Workflow{
		ObjectMeta: metav1.ObjectMeta{Name: workflowName(v.Workflow), Namespace: namespace},
		Spec:       datav1alpha1.WorkflowSpec{Backend: backendName, WorkflowName: v.Workflow.Name, Version: text(v.Workflow.Version)},
		Status: datav1alpha1.WorkflowStatus{
			Served: f.ServedKeys()[v.Workflow.Key()], Runnable: int32(v.Runnable), OldestRunnableAt: timeOf(v.OldestDue),
			Running: int32(v.Running), Waiting: int32(v.Waiting), Suspended: int32(v.Suspended),
			Completed: int32(v.Completed), Failed: int32(v.Failed), Canceled: int32(v.Canceled),
			Seconds: max(1, int32(v.Span.Round(time.Second)/time.Second)),
		},
	}
}
