package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

const watchLong = `Show each change of a run until it has ended.

The changes of a WorkflowRun come from the API server. A run without an object is read from the
data API every second at first, and every five seconds later on.

The exit code is 0 for a completed run, 10 for a failed one, 11 for a canceled one, and 5 if
--timeout is over before.`

// A run without an object is read at growing intervals.
const pollFirst, pollMax = time.Second, 5 * time.Second

type watchOptions struct {
	*factory
	printer *printer
	timeout time.Duration
}

func newWatch(f *factory) *cobra.Command {
	o := &watchOptions{factory: f, printer: newPrinter("")}
	cmd := &cobra.Command{
		Use: "watch RUN", Short: "Show each change of a run until it has ended",
		Long: watchLong, Example: `  kubectl workflow watch order-1001 --timeout 10m`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: f.completeRun,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
	}
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "Wait at most this long. 0 waits without end.")
	o.printer.addFlags(cmd)
	return cmd
}

func (o *watchOptions) run(ctx context.Context, argument string) error {
	if o.timeout < 0 {
		return fmt.Errorf("--timeout %v: give a positive duration, such as 10m", o.timeout)
	}
	if err := o.printer.validate(); err != nil {
		return err
	}
	found, err := o.find(ctx, argument)
	if err != nil {
		return err
	}
	w := &watcher{factory: o.factory, target: found, printer: o.printer}
	last, err := w.until(ctx, o.timeout)
	if err != nil {
		return err
	}
	return ended(last.state)
}

// seen is what a watcher has seen of a run.
type seen struct {
	state  v1alpha1.RunState
	object runtime.Object
	cells  [5]string // as they are printed, without the time
}

// watcher waits for the end of a run.
type watcher struct {
	*factory
	target  *target
	printer *printer // nil prints nothing

	last seen
}

// until returns what the run was like when it had ended. A timeout of 0 is none.
func (w *watcher) until(ctx context.Context, timeout time.Duration) (seen, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, &endError{
			code:    codeTimeout,
			message: fmt.Sprintf("the run has not ended within %v: see kubectl workflow describe %s", timeout, w.target.name()),
		})
		defer cancel()
	}
	follow := w.poll
	if w.target.object != nil {
		follow = w.watch
	}
	err := follow(ctx)
	if cause := context.Cause(ctx); cause != nil && err != nil {
		err = cause
	}
	if errors.Is(err, context.Canceled) {
		err = &endError{code: codeError, message: "interrupted: the run goes on"}
	}
	return w.last, err
}

// show prints what has changed, and reports whether the run has ended.
func (w *watcher) show(now seen) (bool, error) {
	changed := now.cells != w.last.cells
	w.last = now
	if changed && w.printer != nil {
		table := &metav1.Table{
			ColumnDefinitions: []metav1.TableColumnDefinition{
				column("Time", 0), column("Status", 0), column("Steps", 0), column("Attempts", 0), column("Worker", 1), column("Message", 0),
			},
			Rows: []metav1.TableRow{row(w.now().Format(time.TimeOnly), now.cells[0], now.cells[1], now.cells[2], now.cells[3], line(now.cells[4], 200))},
		}
		if err := w.printer.print(w.Out, now.object, table); err != nil {
			return false, err
		}
	}
	return now.state.Terminal(), nil
}

// watch follows the object by the API server's events.
func (w *watcher) watch(ctx context.Context) error {
	objects, err := w.objects()
	if err != nil {
		return err
	}
	object := w.target.object
	for {
		if done, err := w.show(seenObject(object)); done || err != nil {
			return err
		}
		events, err := objects.Get().Namespace(object.Namespace).Resource("workflowruns").
			Param("watch", "true").Param("fieldSelector", "metadata.name="+object.Name).Param("resourceVersion", object.ResourceVersion).
			Watch(ctx)
		if err != nil {
			return fmt.Errorf("watch WorkflowRun %s: %w", object.Name, err)
		}
		done, err := w.events(ctx, events)
		events.Stop()
		if done || err != nil {
			return err
		}
		// The API server ends watches now and then: go on from what the object is like now.
		now := &v1alpha1.WorkflowRun{}
		if err := objects.Get().Namespace(object.Namespace).Resource("workflowruns").Name(object.Name).Do(ctx).Into(now); err != nil {
			return fmt.Errorf("read WorkflowRun %s: %w", object.Name, err)
		}
		object = now
	}
}

// events shows events until the run has ended, or the watch.
func (w *watcher) events(ctx context.Context, events watch.Interface) (bool, error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case event, open := <-events.ResultChan():
			if !open || event.Type == watch.Error {
				return false, nil
			}
			object, ok := event.Object.(*v1alpha1.WorkflowRun)
			if !ok {
				continue
			}
			if event.Type == watch.Deleted {
				return false, &endError{code: codeNotFound, message: fmt.Sprintf("WorkflowRun %s was deleted: its run is canceled", object.Name)}
			}
			if done, err := w.show(seenObject(object)); done || err != nil {
				return done, err
			}
		}
	}
}

// poll follows the run by the data API. A manager that restarts is waited for.
func (w *watcher) poll(ctx context.Context) error {
	data, err := w.data(ctx)
	if err != nil {
		return err
	}
	for interval := pollFirst; ; interval = min(interval*3/2, pollMax) {
		run, err := data.run(ctx, w.target.namespace, w.target.id)
		switch {
		case err == nil:
			if done, err := w.show(seenRun(run)); done || err != nil {
				return err
			}
		case w.last.object == nil || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
			return fmt.Errorf("read run %s: %w", w.target.id, err)
		case ctx.Err() == nil:
			again, err := w.reconnect(ctx)
			if err == nil {
				data = again
			} else if ctx.Err() == nil && exitCode(err) != codeUnreachable {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(interval):
		}
	}
}

func seenObject(o *v1alpha1.WorkflowRun) seen {
	s := &o.Status
	attempts, steps := "", ""
	if s.Attempts != nil {
		attempts = fmt.Sprint(*s.Attempts)
	}
	if s.Steps != nil {
		steps = s.Steps.Summary
	}
	return seen{state: s.State, object: o, cells: [5]string{string(s.State), steps, attempts, s.Worker, s.Message}}
}

func seenRun(r *datav1alpha1.Run) seen {
	message := r.Status.ErrorName
	if r.Status.NextAt != nil {
		message = strings.TrimPrefix(message+", due "+rfc3339(r.Status.NextAt.Time), ", ")
	}
	return seen{state: v1alpha1.RunState(r.Status.State), object: r, cells: [5]string{
		stateText(r), "", fmt.Sprint(r.Status.Attempts), r.Status.Worker, message,
	}}
}
