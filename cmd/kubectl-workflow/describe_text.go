package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// print writes what a person wants to know of the run.
func (d *described) print(out io.Writer, now time.Time, o timelineOptions) error {
	name, message := "<none>, the run was started without a WorkflowRun", ""
	switch {
	case d.object != nil:
		name, message = d.object.Name, d.object.Status.Message
	case d.run.Status.Object != "":
		name = d.run.Status.Object
	}
	about := []string{"Object", name, "Namespace", d.namespace}
	if d.run == nil {
		return fieldsOf(out, append(about, "Workflow", d.object.Spec.WorkflowName, "Version", d.object.Spec.Version,
			"Backend", d.object.Spec.BackendRef.Name, "Status", string(d.object.Status.State),
			"Run", "<none>, the manager has not started it yet", "Message", message)...)
	}
	fields := append(append(about, runFields(d.run, now)...), "Message", message)
	if d.state != nil {
		fields = append(fields, "State", string(d.state.State.Raw), "Published", timeText(d.state.UpdatedAt))
	}
	if err := fieldsOf(out, fields...); err != nil {
		return err
	}
	return printTimeline(out, d.steps.Items, d.run, now, o)
}

// runFields are the names and values that describe a run.
func runFields(run *datav1alpha1.Run, now time.Time) []string {
	return []string{
		"Run", run.Name,
		"Workflow", run.Spec.WorkflowName,
		"Version", run.Spec.Version,
		"Backend", run.Spec.Backend,
		"Idempotency key", run.Spec.IdempotencyKey,
		"Parent", run.Status.Parent,
		"Schedule", run.Status.Schedule,
		"Slot", timeText(run.Status.ScheduledAt),
		"Forked from", run.Status.ForkedFrom,
		"Forked at", run.Status.ForkStep,
		"Superseded by", run.Status.SupersededBy,
		"Status", stateText(run),
		"Error", run.Status.ErrorName,
		"Worker", run.Status.Worker,
		"Attempts", strconv.Itoa(int(run.Status.Attempts)),
		"Created", rfc3339(run.CreationTimestamp.Time),
		"Started", timeText(run.Status.StartedAt),
		"Finished", timeText(run.Status.FinishedAt),
		"Archived", timeText(run.Status.ArchivedAt),
		"Duration", spanOf(run.Status.StartedAt, run.Status.FinishedAt, now),
		"Due", timeText(run.Status.NextAt),
		"Deadline", timeText(run.Spec.DeadlineAt),
	}
}

// stateText is the state, with the reason where it says more.
func stateText(run *datav1alpha1.Run) string {
	text := run.Status.State
	if reason := run.Status.Reason; reason != "" && reason != run.Status.State {
		text = fmt.Sprintf("%s (%s)", text, reason)
	}
	if run.Status.Suspended && run.Status.Reason != v1alpha1.ReasonSuspended {
		text += ", suspended" // once the step that executes has ended
	}
	return text
}

// timeText is a time, empty for none.
func timeText(t *metav1.Time) string {
	if t == nil {
		return ""
	}
	return rfc3339(t.Time)
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
