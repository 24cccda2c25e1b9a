package dataapi

import (
	"context"
	"errors"
	"fmt"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
)

// bulkResource and bulkKind are what errors name.
var (
	bulkResource = schema.GroupResource{Group: datav1alpha1.GroupVersion.Group, Resource: "bulkretries"}
	bulkKind     = datav1alpha1.GroupVersion.WithKind("BulkRetry").GroupKind()
)

// bulkRetries serves the resource bulkretries. The leading manager carries them out.
type bulkRetries struct {
	reader
	tables
}

var (
	_ rest.Getter               = &bulkRetries{}
	_ rest.Lister               = &bulkRetries{}
	_ rest.Creater              = &bulkRetries{}
	_ rest.Patcher              = &bulkRetries{}
	_ rest.GracefulDeleter      = &bulkRetries{}
	_ rest.Scoper               = &bulkRetries{}
	_ rest.SingularNameProvider = &bulkRetries{}
)

func (*bulkRetries) New() runtime.Object     { return &datav1alpha1.BulkRetry{} }
func (*bulkRetries) NewList() runtime.Object { return &datav1alpha1.BulkRetryList{} }
func (*bulkRetries) Destroy()                {}
func (*bulkRetries) NamespaceScoped() bool   { return true }
func (*bulkRetries) GetSingularName() string { return "bulkretry" }
func (*bulkRetries) Categories() []string    { return []string{"openworkflow-data"} }

// Get returns a request.
func (s *bulkRetries) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	var out *datav1alpha1.BulkRetry
	err := s.findBulk(ctx, namespace, name, func(db *database, b *store.BulkRetry) error {
		out = bulkRetryOf(b, db.backend, namespace)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// findBulk calls f with the database that has a request. Without one it returns NotFound.
func (s *bulkRetries) findBulk(ctx context.Context, namespace, name string, f func(*database, *store.BulkRetry) error) error {
	return s.databases.use(ctx, namespace, "", func(open []*database) error {
		for _, db := range open {
			found, err := db.View(readTimeout).BulkRetries(ctx, name)
			if err != nil {
				return answer(ctx, db, err)
			}
			if len(found) > 0 {
				return answer(ctx, db, f(db, &found[0]))
			}
		}
		return apierrors.NewNotFound(bulkResource, name)
	})
}

// List returns the requests of a namespace, of each Backend the newest first.
func (s *bulkRetries) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	if namespace == "" {
		return nil, apierrors.NewBadRequest("bulk retries are listed by namespace: name one, without --all-namespaces")
	}
	if o.LabelSelector != nil && !o.LabelSelector.Empty() {
		return nil, apierrors.NewBadRequest("bulk retries have no labels")
	}
	list := &datav1alpha1.BulkRetryList{Items: []datav1alpha1.BulkRetry{}}
	err := s.databases.use(ctx, namespace, "", func(open []*database) error {
		return pageReads.within(ctx, func() error { return s.listBulk(ctx, open, o.FieldSelector, list) })
	})
	return list, err
}

// listBulk adds the requests of the databases to the list, which has no pages: it fails if their texts are
// long, as those of rows may be that somebody else has written.
func (s *bulkRetries) listBulk(ctx context.Context, open []*database, selector fields.Selector, list *datav1alpha1.BulkRetryList) error {
	namespace, size := genericapirequest.NamespaceValue(ctx), 0
	for _, db := range open {
		found, err := db.View(readTimeout).BulkRetries(ctx, "")
		if err != nil {
			return answer(ctx, db, err)
		}
		for i := range found {
			of := fields.Set{"metadata.name": found[i].Name, "metadata.namespace": namespace}
			if selector != nil && !selector.Matches(of) {
				continue
			}
			if size += found[i].Size(); size > maxListBytes {
				return apierrors.NewBadRequest(fmt.Sprintf("the bulk retries of this namespace have more than %d bytes: get one by its name", maxListBytes))
			}
			list.Items = append(list.Items, *bulkRetryOf(&found[i], db.backend, namespace))
		}
	}
	return reserveAnswer(ctx, size)
}

// Create stores a request. A dry run stores nothing: its status says how many runs match, and
// names some of them.
func (s *bulkRetries) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	posted, err := request[*datav1alpha1.BulkRetry](ctx, object, validate)
	if err != nil {
		return nil, err
	}
	b := posted.DeepCopy()
	defaultBulkRetry(b)
	if errs := validateBulkRetry(b); len(errs) > 0 {
		return nil, apierrors.NewInvalid(bulkKind, b.Name, errs)
	}
	namespace := genericapirequest.NamespaceValue(ctx)
	err = s.databases.use(ctx, namespace, "", func(open []*database) error {
		var chosen *database
		for _, db := range open {
			if db.backend == b.Spec.Backend {
				chosen = db
				continue
			}
			if other, err := db.View(readTimeout).BulkRetries(ctx, b.Name); err != nil || len(other) > 0 {
				return answer(ctx, db, bulkExists(b.Name, err))
			}
		}
		if chosen == nil {
			return apierrors.NewBadRequest(backend.NotFound(b.Spec.Backend).Message)
		}
		return answer(ctx, chosen, s.create(ctx, chosen, b, len(o.DryRun) > 0))
	})
	if err != nil || len(o.DryRun) > 0 {
		return b, err
	}
	return s.Get(ctx, b.Name, nil)
}

func bulkExists(name string, err error) error {
	if err == nil || errors.Is(err, store.ErrBulkRetryExists) {
		return apierrors.NewAlreadyExists(bulkResource, name)
	}
	return err
}

// create counts what matches, and stores the request unless it is a dry run.
func (s *bulkRetries) create(ctx context.Context, db *database, b *datav1alpha1.BulkRetry, dryRun bool) error {
	spec := bulkSpec(&b.Spec)
	preview, err := db.View(readTimeout).PreviewBulkRetry(ctx, &spec)
	if err != nil {
		return err
	}
	b.Namespace = genericapirequest.NamespaceValue(ctx)
	b.Status = datav1alpha1.BulkRetryStatus{Matched: int32(preview.Matched), MatchedMore: preview.More, Sample: preview.Sample}
	if dryRun {
		return nil
	}
	err = db.CreateBulkRetry(ctx, store.BulkRetry{
		Name: b.Name, Spec: spec, State: bulkState(&b.Spec), Matched: preview.Matched, More: preview.More,
	})
	switch {
	case errors.Is(err, store.ErrBulkRetryExists):
		return bulkExists(b.Name, err)
	case errors.Is(err, store.ErrTooManyBulkRetries):
		return apierrors.NewForbidden(bulkResource, b.Name, fmt.Errorf("%d bulk retries of this Backend have not ended: wait, or cancel one", store.MaxOpenBulkRetries))
	}
	return err
}

// Update suspends, resumes or cancels a request.
func (s *bulkRetries) Update(
	ctx context.Context, name string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	validate rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	var updated *datav1alpha1.BulkRetry
	err := s.findBulk(ctx, namespace, name, func(db *database, b *store.BulkRetry) error {
		current := bulkRetryOf(b, db.backend, namespace)
		object, err := info.UpdatedObject(ctx, current)
		if err != nil {
			return err
		}
		var ok bool
		if updated, ok = object.(*datav1alpha1.BulkRetry); !ok {
			return apierrors.NewBadRequest(fmt.Sprintf("update with %T: want a BulkRetry", object))
		}
		if err := checkBulkUpdate(ctx, updated, current, validate); err != nil {
			return err
		}
		state := bulkState(&updated.Spec)
		if state == b.State || len(o.DryRun) > 0 {
			return nil
		}
		changed, err := db.ChangeBulkRetry(ctx, name, b.UID, state)
		if err == nil && !changed {
			err = bulkEnded(name)
		}
		return err
	})
	if err != nil || len(o.DryRun) > 0 {
		return updated, false, err
	}
	result, err := s.Get(ctx, name, nil)
	return result, false, err
}

func bulkEnded(name string) error {
	return apierrors.NewConflict(bulkResource, name, errors.New("the bulk retry has ended"))
}

// checkBulkUpdate checks what an update changes.
func checkBulkUpdate(ctx context.Context, updated, current *datav1alpha1.BulkRetry, validate rest.ValidateObjectUpdateFunc) error {
	if updated.UID != "" && updated.UID != current.UID {
		return apierrors.NewConflict(bulkResource, current.Name, fmt.Errorf("its uid is %s", current.UID))
	}
	defaultBulkRetry(updated)
	if errs := validateBulkUpdate(updated, current); len(errs) > 0 {
		return apierrors.NewInvalid(bulkKind, current.Name, errs)
	}
	if ended := current.Status.FinishedAt != nil; ended && !apiequality.Semantic.DeepEqual(updated.Spec, current.Spec) {
		return bulkEnded(current.Name)
	}
	if validate != nil {
		return validate(ctx, updated, current)
	}
	return nil
}

// Delete removes a request, which ends it. The runs that it has started go on.
func (s *bulkRetries) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	namespace := genericapirequest.NamespaceValue(ctx)
	var out *datav1alpha1.BulkRetry
	err := s.findBulk(ctx, namespace, name, func(db *database, b *store.BulkRetry) error {
		out = bulkRetryOf(b, db.backend, namespace)
		if p := o.Preconditions; p != nil && p.UID != nil && *p.UID != out.UID {
			return apierrors.NewConflict(bulkResource, name, fmt.Errorf("its uid is %s", out.UID))
		}
		if validate != nil {
			if err := validate(ctx, out); err != nil {
				return err
			}
		}
		if len(o.DryRun) > 0 {
			return nil
		}
		return db.DeleteBulkRetry(ctx, name, b.UID)
	})
	if err != nil {
		return nil, false, err
	}
	return out, true, nil
}

// defaultBulkRetry fills in what a request leaves out.
func defaultBulkRetry(b *datav1alpha1.BulkRetry) {
	if b.Name == "" && b.GenerateName != "" {
		b.Name = names.SimpleNameGenerator.GenerateName(b.GenerateName)
	}
	spec := &b.Spec
	if spec.Backend == "" {
		spec.Backend = defaultBackend
	}
	if len(spec.Selector.States) == 0 {
		spec.Selector.States = []string{stateFailed}
	}
	if spec.From == "" {
		spec.From = datav1alpha1.FromLastFailed
	}
	if spec.Children == "" {
		spec.Children = datav1alpha1.ChildrenKeep
	}
	if spec.RunsPerMinute == 0 {
		spec.RunsPerMinute = defaultBulkRate
	}
}
