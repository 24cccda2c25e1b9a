package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	batchv1client "k8s.io/client-go/kubernetes/typed/batch/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dryrun"
	"github.com/openworkflow-operator/operator/internal/poolspec"
)

const (
	// dryRunPoll is the time between two looks at the pod.
	dryRunPoll = 500 * time.Millisecond
	// maxDryRunRequest bounds the request, which is stored in the Job.
	maxDryRunRequest = 32 << 10
)

// validateDry rejects what a dry run cannot do.
func (o *forkOptions) validateDry() error {
	switch {
	case o.dry && o.timeout <= 0:
		return fmt.Errorf("--timeout %v: give a positive duration", o.timeout)
	}
	return nil
}

// runDry says what the fork would do with the current build of its workers.
func (o *forkOptions) runDry(ctx context.Context, of *target, input *apiextensionsv1.JSON, outputs []datav1alpha1.StepOutput) error {
	if !of.started() {
		return fmt.Errorf("the run of WorkflowRun %s has not been started", of.object.Name)
	}
	r := &dryrun.Request{RunID: of.id, LastFailed: o.lastFailed, RestartChildren: o.children == string(v1alpha1.ForkRestartChildren), Input: rawOf(input)}
	if o.hasStep {
		r.Step = &o.step
	}
	if len(outputs) > 0 {
		r.Outputs = make(map[string]json.RawMessage, len(outputs))
	}
	for _, output := range outputs {
		r.Outputs[output.Step] = output.Value.Raw
	}
	result, err := o.dryRun(ctx, of, r, o.pool, o.timeout)
	if err != nil {
		return fmt.Errorf("dry run of run %s: %w", of.id, err)
	}
	if o.printer.plain() {
		return printDryRun(o.factory, result)
	}
	object, err := dryRunObject(of.namespace, result)
	if err != nil {
		return err
	}
	return o.printer.print(o.Out, object, nil)
}

// dryRunObject returns a result for programs, in the form of an object with the name of the run.
func dryRunObject(namespace string, r *dryrun.Result) (*unstructured.Unstructured, error) {
	status, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
	if err != nil {
		return nil, fmt.Errorf("convert the result of the dry run: %w", err)
	}
	object := &unstructured.Unstructured{Object: map[string]any{"status": status}}
	object.SetGroupVersionKind(datav1alpha1.GroupVersion.WithKind("DryRun"))
	object.SetNamespace(namespace)
	object.SetName(r.RunID)
	return object, nil
}

// dryRun asks a pod of the run's pool what a fork would do. The pod is started with the rights of
// the user, and removed afterwards. An empty pool is the one that serves the run's workflow.
func (f *factory) dryRun(ctx context.Context, t *target, r *dryrun.Request, poolName string, timeout time.Duration) (*dryrun.Result, error) {
	encoded, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	if len(encoded) > maxDryRunRequest {
		return nil, fmt.Errorf("the input and the outputs have %d bytes, more than %d: a dry run stores them in a Job", len(encoded), maxDryRunRequest)
	}
	data, err := f.data(ctx)
	if err != nil {
		return nil, err
	}
	run, err := data.run(ctx, t.namespace, t.id)
	if err != nil {
		return nil, err
	}
	in, err := f.dryRunInput(ctx, t.namespace, run, poolName)
	if err != nil {
		return nil, err
	}
	job, err := poolspec.DryRunJob(in, string(encoded))
	if err != nil {
		return nil, err
	}
	return f.execute(ctx, job, timeout)
}

// dryRunInput reads the pool and its Backend.
func (f *factory) dryRunInput(ctx context.Context, namespace string, run *datav1alpha1.Run, poolName string) (poolspec.Input, error) {
	objects, err := f.objects()
	if err != nil {
		return poolspec.Input{}, err
	}
	pool := &v1alpha1.WorkerPool{}
	if poolName != "" {
		err = objects.Get().Namespace(namespace).Resource("workerpools").Name(poolName).Do(ctx).Into(pool)
	} else {
		pools := &v1alpha1.WorkerPoolList{}
		if err = objects.Get().Namespace(namespace).Resource("workerpools").Do(ctx).Into(pools); err == nil {
			pool, err = servingPool(pools.Items, run)
		}
	}
	if err != nil {
		return poolspec.Input{}, fmt.Errorf("find the WorkerPool: %w", err)
	}
	name := cmp.Or(pool.Spec.BackendRef.Name, "default")
	if name != run.Spec.Backend {
		return poolspec.Input{}, fmt.Errorf("WorkerPool %s works on Backend %q, and the run is in %q: choose another by --pool", pool.Name, name, run.Spec.Backend)
	}
	itsBackend := &v1alpha1.Backend{}
	if err := objects.Get().Namespace(namespace).Resource("backends").Name(name).Do(ctx).Into(itsBackend); err != nil {
		return poolspec.Input{}, fmt.Errorf("read Backend %s: %w", name, err)
	}
	in, err := poolspec.DryRunInput(pool, itsBackend)
	if err != nil {
		return in, fmt.Errorf("WorkerPool %s: %w", pool.Name, err)
	}
	return in, nil
}

// servingPool returns the one pool of the run's Backend that serves its workflow.
func servingPool(pools []v1alpha1.WorkerPool, run *datav1alpha1.Run) (*v1alpha1.WorkerPool, error) {
	var all, serving []*v1alpha1.WorkerPool
	for i := range pools {
		p := &pools[i]
		if cmp.Or(p.Spec.BackendRef.Name, "default") != run.Spec.Backend {
			continue
		}
		all = append(all, p)
		if slices.ContainsFunc(slices.Concat(p.Spec.Workflows, p.Status.Workflows), func(w v1alpha1.ServedWorkflow) bool {
			return w.Name == run.Spec.WorkflowName && w.Version == run.Spec.Version
		}) {
			serving = append(serving, p)
		}
	}
	if len(serving) == 0 {
		serving = all
	}
	if len(serving) == 1 {
		return serving[0], nil
	}
	names := []string{}
	for _, p := range serving {
		names = append(names, p.Name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no WorkerPool works on Backend %q", run.Spec.Backend)
	}
	return nil, fmt.Errorf("several could serve workflow %q (%s): choose one by --pool", run.Spec.WorkflowName, strings.Join(names, ", "))
}

// execute creates the Job, waits for the result of its worker, and removes it.
func (f *factory) execute(ctx context.Context, job *batchv1.Job, timeout time.Duration) (*dryrun.Result, error) {
	config, err := f.restConfig()
	if err != nil {
		return nil, err
	}
	batch, err := batchv1client.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	jobs := batch.Jobs(job.Namespace)
	created, err := jobs.Create(ctx, job, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("start the pod: %w", err)
	}
	defer func() { // also when the user interrupts
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := jobs.Delete(ctx, created.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}); err != nil {
			_, _ = fmt.Fprintf(f.ErrOut, "Could not remove Job %s, which is removed by itself 5 minutes after its end: %v\n", created.Name, err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f.awaitResult(ctx, created)
}

// awaitResult waits until the worker of the Job's pod has ended.
func (f *factory) awaitResult(ctx context.Context, job *batchv1.Job) (*dryrun.Result, error) {
	core, err := f.core()
	if err != nil {
		return nil, err
	}
	ticker := time.NewTicker(dryRunPoll)
	defer ticker.Stop()
	for state := "no pod was made"; ; {
		pods, err := core.Pods(job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + job.Name})
		if err != nil && ctx.Err() == nil {
			return nil, fmt.Errorf("look at the pod: %w", err)
		}
		if err == nil && len(pods.Items) > 0 {
			ended, text := workerEnd(&pods.Items[0])
			if ended != nil {
				return decodeResult(ended)
			}
			state = text
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("the pod has not answered: %s: %w", state, ctx.Err())
		case <-ticker.C:
		}
	}
}

// workerEnd returns how the worker's container has ended, or what it is doing.
func workerEnd(pod *corev1.Pod) (ended *corev1.ContainerStateTerminated, state string) {
	name := poolspec.WorkerContainer(pod)
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i].State
		switch {
		case pod.Status.ContainerStatuses[i].Name != name:
		case s.Terminated != nil:
			return s.Terminated, ""
		case s.Waiting != nil:
			return nil, strings.TrimSuffix(s.Waiting.Reason+": "+s.Waiting.Message, ": ")
		case s.Running != nil:
			return nil, "its worker is running: a program without a worker of this project, or of an earlier release, knows no dry runs"
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return nil, strings.TrimSuffix(c.Reason+": "+c.Message, ": ")
		}
	}
	return nil, "it is being started"
}

// decodeResult reads the worker's answer.
func decodeResult(ended *corev1.ContainerStateTerminated) (*dryrun.Result, error) {
	result := &dryrun.Result{}
	if err := json.Unmarshal([]byte(ended.Message), result); err != nil || result.RunID == "" {
		return nil, fmt.Errorf("the worker has ended with code %d and without a result: its image knows no dry runs, or its program failed before", ended.ExitCode)
	}
	if result.Problem != "" {
		return nil, errors.New(result.Problem)
	}
	return result, nil
}

// printDryRun prints a result for people.
func printDryRun(f *factory, r *dryrun.Result) error {
	var b strings.Builder
	title := r.Workflow
	if r.Version != "" {
		title += " " + r.Version
	}
	fmt.Fprintf(&b, "Workflow %s, with the current build:\n", title)
	fmt.Fprintf(&b, "  kept      %s\n", counted(r.Kept, r.LastKept, "the last: "))
	var next []string
	for _, s := range r.Next {
		next = append(next, fmt.Sprintf("%s (%s)", s.Name, s.Kind))
	}
	switch {
	case r.Ended && r.ErrorName != "":
		fmt.Fprintf(&b, "  next      no step: the workflow fails with %s\n", r.ErrorName)
	case r.Ended:
		b.WriteString("  next      no step: the workflow completes\n")
	default:
		fmt.Fprintf(&b, "  next      %s\n", listed(next, r.NextMore))
	}
	if len(r.NotAsked) > 0 {
		fmt.Fprintf(&b, "  not used  %s\n            The code does not ask for these results before it goes on: unless they run in parallel, it has changed.\n",
			listed(r.NotAsked, r.NotAskedMore))
	}
	if len(r.OtherKind) > 0 {
		fmt.Fprintf(&b, "  changed   %s\n            These steps are of another kind now, and get the stored results all the same.\n", listed(r.OtherKind, r.OtherKindMore))
	}
	_, err := fmt.Fprint(f.Out, b.String())
	return err
}

func counted(n int, names []string, prefix string) string {
	switch {
	case n == 0:
		return "nothing"
	case n > len(names):
		return fmt.Sprintf("%d steps, %s%s", n, prefix, strings.Join(names, ", "))
	case n == 1:
		return "1 step: " + names[0]
	default:
		return fmt.Sprintf("%d steps: %s", n, strings.Join(names, ", "))
	}
}

func listed(names []string, more int) string {
	text := strings.Join(names, ", ")
	if more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
