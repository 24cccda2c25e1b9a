package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// dataClient reads and writes the resources of the data API.
type dataClient struct {
	rest *rest.RESTClient
}

// run returns a run by its id.
func (c *dataClient) run(ctx context.Context, namespace, id string) (*datav1alpha1.Run, error) {
	run := &datav1alpha1.Run{}
	err := c.rest.Get().Namespace(namespace).Resource("runs").Name(id).Do(ctx).Into(run)
	return run, err
}

// list returns a page of runs, newest first.
func (c *dataClient) list(ctx context.Context, namespace string, selector fields.Selector, limit int64, next string) (*datav1alpha1.RunList, error) {
	page := &datav1alpha1.RunList{}
	request := c.rest.Get().Namespace(namespace).Resource("runs").Param("limit", strconv.FormatInt(limit, 10))
	if !selector.Empty() {
		request = request.Param("fieldSelector", selector.String())
	}
	if next != "" {
		request = request.Param("continue", next)
	}
	err := request.Do(ctx).Into(page)
	return page, err
}

// get reads a subresource of a run.
func (c *dataClient) get(ctx context.Context, namespace, id, subresource string, into runtime.Object) error {
	return c.page(ctx, namespace, id, subresource, "", into)
}

// page reads a page of a subresource of a run; next is the position that the page before names.
func (c *dataClient) page(ctx context.Context, namespace, id, subresource, next string, into runtime.Object) error {
	request := c.rest.Get().Namespace(namespace).Resource("runs").Name(id).SubResource(subresource)
	if next != "" {
		request = request.Param("continue", next)
	}
	return request.Do(ctx).Into(into)
}

// post creates a subresource of a run, and decodes the answer into what was posted.
func (c *dataClient) post(ctx context.Context, namespace, id, subresource string, body runtime.Object) error {
	return c.rest.Post().Namespace(namespace).Resource("runs").Name(id).SubResource(subresource).Body(body).Do(ctx).Into(body)
}

// steps returns all step attempts of a run, oldest first, with the run's metadata.
func (c *dataClient) steps(ctx context.Context, namespace, id string) (*datav1alpha1.RunSteps, error) {
	all := &datav1alpha1.RunSteps{}
	for next := ""; ; {
		page := &datav1alpha1.RunSteps{}
		if err := c.page(ctx, namespace, id, "steps", next, page); err != nil {
			return nil, fmt.Errorf("read the steps of run %s: %w", id, err)
		}
		all.ObjectMeta = page.ObjectMeta
		all.Items = append(all.Items, page.Items...)
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}

// target is the run that an argument names.
type target struct {
	namespace string
	// object is the WorkflowRun of that name, nil for a run that is named by its id.
	object *v1alpha1.WorkflowRun
	// run is the run, nil if nobody has read it.
	run *datav1alpha1.Run
	// id is the run's id. The run of an object may not have been started yet.
	id string
}

// started reports whether the run has a row, so that the data API knows it.
func (t *target) started() bool { return t.object == nil || t.object.Status.RunID != "" }

// name is how a user names the run.
func (t *target) name() string {
	if t.object != nil {
		return t.object.Name
	}
	return t.id
}

// any returns the object, or else the run.
func (t *target) any() runtime.Object {
	switch {
	case t.object != nil:
		return t.object
	case t.run != nil:
		return t.run
	default:
		return &datav1alpha1.Run{ObjectMeta: metav1.ObjectMeta{Namespace: t.namespace, Name: t.id}}
	}
}

// attached reports whether the object shows a run that another one has started.
func (t *target) attached() bool {
	return t.object != nil && t.object.Status.RunID != "" && t.object.Status.RunID != string(t.object.UID)
}

// findRun resolves an argument and reads the run from the data API.
func (f *factory) findRun(ctx context.Context, argument string) (*target, *dataClient, error) {
	found, err := f.find(ctx, argument)
	if err != nil {
		return nil, nil, err
	}
	if !found.started() {
		return nil, nil, fmt.Errorf("the manager has not started the run of WorkflowRun %s yet: %s", found.name(), found.object.Status.Message)
	}
	data, err := f.data(ctx)
	if err != nil {
		return nil, nil, err
	}
	if found.run, err = data.run(ctx, found.namespace, found.id); err != nil {
		return nil, nil, fmt.Errorf("read run %s: %w", found.id, err)
	}
	return found, data, nil
}

// find resolves an argument: the name of a WorkflowRun, else the id of a run. Prefixes decide
// where both exist. It does not ask whether a run of the id exists.
func (f *factory) find(ctx context.Context, argument string) (*target, error) {
	namespace, err := f.namespace()
	if err != nil {
		return nil, err
	}
	kind, name, qualified := strings.Cut(argument, "/")
	if !qualified {
		kind, name = "", argument
	}
	if name == "" {
		return nil, errors.New("name a run: the name of a WorkflowRun, or a run's id")
	}
	switch strings.ToLower(kind) {
	case "run", "runs", "run.data.openworkflow.dev", "runs.data.openworkflow.dev":
		return &target{namespace: namespace, id: name}, nil
	case "", "workflowrun", "workflowruns", "wfr", "workflowrun.openworkflow.dev", "workflowruns.openworkflow.dev":
	default:
		return nil, fmt.Errorf("%q names neither a WorkflowRun nor a run: use workflowrun/NAME or run/ID", argument)
	}
	objects, err := f.objects()
	if err != nil {
		return nil, err
	}
	object := &v1alpha1.WorkflowRun{}
	err = objects.Get().Namespace(namespace).Resource("workflowruns").Name(name).Do(ctx).Into(object)
	if err == nil {
		object.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("WorkflowRun"))
		return &target{namespace: namespace, object: object, id: runID(object)}, nil
	}
	if !qualified && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) {
		return &target{namespace: namespace, id: name}, nil
	}
	return nil, fmt.Errorf("read WorkflowRun %s: %w", name, err)
}

// runID returns the id of an object's run, which is the object's uid unless it is attached to an
// earlier run.
func runID(object *v1alpha1.WorkflowRun) string {
	if object.Status.RunID != "" {
		return object.Status.RunID
	}
	return string(object.UID)
}
