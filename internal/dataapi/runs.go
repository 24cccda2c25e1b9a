package dataapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/store"
)

// runs serves the resource runs.
type runs struct {
	reader
	tables
}

var (
	_ rest.Getter               = &runs{}
	_ rest.Lister               = &runs{}
	_ rest.Creater              = &runs{}
	_ rest.Scoper               = &runs{}
	_ rest.SingularNameProvider = &runs{}
)

func (*runs) New() runtime.Object     { return &datav1alpha1.Run{} }
func (*runs) NewList() runtime.Object { return &datav1alpha1.RunList{} }
func (*runs) Destroy()                {}
func (*runs) NamespaceScoped() bool   { return true }
func (*runs) GetSingularName() string { return "run" }
func (*runs) Categories() []string    { return []string{"openworkflow-data"} }

// Get returns a run by its id.
func (s *runs) Get(ctx context.Context, id string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	var run datav1alpha1.Run
	err := s.find(ctx, namespace, id, func(db *database, found *store.RunView) error {
		run = s.runOf(found, db.backend, namespace)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &run, nil
}

// List returns a page of the runs of a namespace, newest first. It has no resource version:
// rows change without one.
func (s *runs) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	if namespace == "" {
		return nil, apierrors.NewBadRequest("runs are listed by namespace: name one, without --all-namespaces")
	}
	if o.LabelSelector != nil && !o.LabelSelector.Empty() {
		return nil, apierrors.NewBadRequest("runs have no labels: select them by fields")
	}
	return s.list(ctx, namespace, o.FieldSelector, o.Continue, limitOf(o.Limit))
}

// Create starts a run without a WorkflowRun object. Its name, if given, is the run's id: a
// repeated create then finds the run that exists.
func (s *runs) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	run, ok := object.(*datav1alpha1.Run)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("create of %T: want a Run", object))
	}
	if errs := validateRun(run); len(errs) > 0 {
		return nil, apierrors.NewInvalid(datav1alpha1.GroupVersion.WithKind("Run").GroupKind(), run.Name, errs)
	}
	if validate != nil {
		if err := validate(ctx, object); err != nil {
			return nil, err
		}
	}
	if len(o.DryRun) > 0 {
		return run, nil
	}
	return s.start(ctx, run)
}

// start inserts the row and returns what it shows.
func (s *runs) start(ctx context.Context, run *datav1alpha1.Run) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	var out datav1alpha1.Run
	err := s.databases.use(ctx, namespace, backendName(run), func(open []*database) error {
		created, err := open[0].create(ctx, newRun(run))
		if err == nil {
			err = created.err
		}
		switch {
		case err != nil:
			return answer(ctx, open[0], err)
		case created.run == nil:
			return apierrors.NewConflict(resource, run.Name, errors.New("the run was removed since: try again"))
		}
		if err := s.keyConflict(created.run, run.Name, run.Spec.IdempotencyKey, namespace); err != nil {
			return err
		}
		out = s.runOf(created.run, open[0].backend, namespace)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// keyConflict refuses to show the run that holds an idempotency key to another namespace than that of its
// object: a key is no secret. Of that run it says only that it exists. ID is that of the run that was asked
// for. A run without an object was started by a client, which has the rights of the Backend.
func (r *reader) keyConflict(made *store.RunView, id, key, namespace string) error {
	object := made.Object()
	if key == "" || made.ID == id || r.attachAcross || object == nil || object.Namespace == namespace {
		return nil
	}
	return apierrors.NewConflict(resource, id, fmt.Errorf("a run of another namespace holds idempotencyKey %q in the database that both namespaces share: "+
		"choose another key, or have the cluster's administrator start the manager with --attach-across-namespaces", key))
}

func backendName(run *datav1alpha1.Run) string {
	if run.Spec.Backend == "" {
		return "default"
	}
	return run.Spec.Backend
}

func newRun(run *datav1alpha1.Run) store.NewRun {
	spec := &run.Spec
	n := store.NewRun{ID: run.Name, WorkflowName: spec.WorkflowName}
	if spec.Version != "" {
		n.Version = &spec.Version
	}
	if spec.IdempotencyKey != "" {
		n.IdempotencyKey = &spec.IdempotencyKey
	}
	if spec.Input != nil {
		n.Input = spec.Input.Raw
	}
	if spec.AvailableAt != nil {
		n.AvailableAt = &spec.AvailableAt.Time
	}
	if spec.DeadlineAt != nil {
		n.DeadlineAt = &spec.DeadlineAt.Time
	}
	if spec.TimeoutSeconds != nil {
		n.Timeout = time.Duration(*spec.TimeoutSeconds) * time.Second
	}
	return n
}
