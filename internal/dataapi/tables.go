package dataapi

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// tables prints resources as kubectl shows them.
type tables struct{}

func column(name, kind, description string, priority int32) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: kind, Description: description, Priority: priority}
}

var (
	runColumns = []metav1.TableColumnDefinition{
		column("Name", "string", "The run's id.", 0),
		column("Workflow", "string", "The name of the workflow.", 0),
		column("Status", "string", "The state of the run.", 0),
		column("Object", "string", "The WorkflowRun that the run mirrors, if there is one.", 0),
		column("Age", "string", "The time since the run was created.", 0),
		column("Duration", "string", "The time from the first claim to the end.", 0),
		column("Version", "string", "The version of the workflow.", 1),
		column("Attempts", "integer", "The number of claims by workers.", 1),
		column("Backend", "string", "The Backend that holds the run.", 1),
		column("Parent", "string", "The run that started this one.", 1),
		column("Forked-From", "string", "The run whose results this one took over.", 1),
		column("Superseded-By", "string", "The newest run that was forked from this one.", 1),
		column("Reason", "string", "Why the run is in its state.", 1),
		column("Schedule", "string", "The WorkflowSchedule that has started the run without a WorkflowRun.", 1),
	}
	stepColumns = []metav1.TableColumnDefinition{
		column("Name", "string", "The step's durable name.", 0),
		column("Kind", "string", "What the step does.", 0),
		column("Status", "string", "The state of the attempt.", 0),
		column("Started", "string", "The time since the attempt started.", 0),
		column("Duration", "string", "The time from the attempt's start to its end.", 0),
		column("Error", "string", "The type of the attempt's error.", 0),
		column("Child", "string", "The run that the step has started.", 1),
		column("Signal", "string", "The signal that the step waits for.", 1),
	}
	whyColumns = []metav1.TableColumnDefinition{
		column("Name", "string", "The run's id.", 0),
		column("Reason", "string", "What the run waits for, in one word.", 0),
		column("Since", "string", "The time since that began.", 0),
		column("Message", "string", "What the run waits for, in one sentence.", 0),
		column("Next", "string", "What to do.", 0),
		column("Workflow", "string", "The name of the workflow.", 1),
		column("Status", "string", "The state of the run.", 1),
		column("Until", "string", "When the run goes on by itself.", 1),
	}
	workflowColumns = []metav1.TableColumnDefinition{
		column("Name", "string", "The workflow, with its version.", 0),
		column("Runnable", "string", "The runs that a worker could claim now.", 0),
		column("Oldest", "string", "The time since the first of them is due.", 0),
		column("Running", "integer", "The runs that workers execute.", 0),
		column("Waiting", "string", "The runs that are due later.", 0),
		column("Per-Minute", "string", "How many runs have completed or failed in a minute.", 0),
		column("Failed", "string", "How many of these have failed.", 0),
		column("Served", "boolean", "Whether a live worker serves it.", 0),
		column("Suspended", "string", "The runs that are suspended.", 1),
		column("Window", "string", "The time over which ends were counted.", 1),
		column("Backend", "string", "The Backend that holds the runs.", 1),
	}
	checkColumns = []metav1.TableColumnDefinition{
		column("Backend", "string", "The Backend.", 0),
		column("Check", "string", "What was looked at.", 0),
		column("Outcome", "string", "OK, Warning or Error.", 0),
		column("Message", "string", "What was found.", 0),
		column("Next", "string", "What to do.", 0),
	}
	approvalColumns = []metav1.TableColumnDefinition{
		column("Name", "string", "The name of the approval.", 0),
		column("Run", "string", "The WorkflowRun that asks, or else the run's id.", 0),
		column("Step", "string", "The step that waits.", 0),
		column("Prompt", "string", "The question.", 0),
		column("State", "string", "Open, or how it has ended.", 0),
		column("Approvals", "string", "How many have approved, of those that are required.", 0),
		column("Age", "string", "The time since the question.", 0),
		column("Expires", "string", "The end of the time for decisions.", 1),
		column("Workflow", "string", "The name of the workflow.", 1),
		column("Digest", "string", "The digest that a decision names.", 1),
	}
	slotColumns = []metav1.TableColumnDefinition{
		column("Schedule", "string", "The name of the WorkflowSchedule.", 0),
		column("Slot", "string", "The slot, or the first of several.", 0),
		column("Until", "string", "The last of several slots.", 0),
		column("Slots", "integer", "How many slots have this outcome.", 0),
		column("Reason", "string", "What has happened.", 0),
		column("Run", "string", "The run that was started.", 0),
		column("Message", "string", "Why a slot was missed.", 1),
		column("Backend", "string", "The Backend that holds the outcome.", 1),
		column("Name", "string", "The uid of the schedule and the time of the slot.", 1),
	}
	objectColumns = []metav1.TableColumnDefinition{
		column("Name", "string", "The run's id.", 0),
		column("Age", "string", "The time since the run was created.", 0),
	}
)

// ConvertToTable prints a list or an object.
func (tables) ConvertToTable(_ context.Context, object runtime.Object, options runtime.Object) (*metav1.Table, error) {
	now := time.Now()
	table := &metav1.Table{ColumnDefinitions: objectColumns, Rows: []metav1.TableRow{}}
	switch o := object.(type) {
	case *datav1alpha1.RunList:
		table.ListMeta, table.ColumnDefinitions = o.ListMeta, runColumns
		for i := range o.Items {
			table.Rows = append(table.Rows, runRow(&o.Items[i], now))
		}
	case *datav1alpha1.Run:
		table.ColumnDefinitions = runColumns
		table.Rows = append(table.Rows, runRow(o, now))
	case *datav1alpha1.RunSteps:
		table.Continue, table.ColumnDefinitions = o.Continue, stepColumns
		for i := range o.Items {
			table.Rows = append(table.Rows, stepRow(&o.Items[i], &o.ObjectMeta, now))
		}
	case *datav1alpha1.RunWhy:
		table.ColumnDefinitions = whyColumns
		table.Rows = append(table.Rows, whyRow(o, now))
	case *datav1alpha1.WorkflowList:
		table.ColumnDefinitions = workflowColumns
		for i := range o.Items {
			table.Rows = append(table.Rows, workflowRow(&o.Items[i], now))
		}
	case *datav1alpha1.Workflow:
		table.ColumnDefinitions = workflowColumns
		table.Rows = append(table.Rows, workflowRow(o, now))
	case *datav1alpha1.Diagnosis:
		table.ColumnDefinitions, table.Rows = checkColumns, checkRows(o)
	case *datav1alpha1.DiagnosisList:
		table.ColumnDefinitions = checkColumns
		for i := range o.Items {
			table.Rows = append(table.Rows, checkRows(&o.Items[i])...)
		}
	case *datav1alpha1.BulkRetryList:
		table.ListMeta, table.ColumnDefinitions = o.ListMeta, bulkColumns
		for i := range o.Items {
			table.Rows = append(table.Rows, bulkRow(&o.Items[i], now))
		}
	case *datav1alpha1.BulkRetry:
		table.ColumnDefinitions = bulkColumns
		table.Rows = append(table.Rows, bulkRow(o, now))
	case *datav1alpha1.ApprovalList:
		table.ListMeta, table.ColumnDefinitions = o.ListMeta, approvalColumns
		for i := range o.Items {
			table.Rows = append(table.Rows, approvalRow(&o.Items[i], now))
		}
	case *datav1alpha1.Approval:
		table.ColumnDefinitions = approvalColumns
		table.Rows = append(table.Rows, approvalRow(o, now))
	case *datav1alpha1.ScheduleSlotList:
		table.ListMeta, table.ColumnDefinitions = o.ListMeta, slotColumns
		for i := range o.Items {
			table.Rows = append(table.Rows, slotRow(&o.Items[i]))
		}
	case *datav1alpha1.ScheduleSlot:
		table.ColumnDefinitions = slotColumns
		table.Rows = append(table.Rows, slotRow(o))
	case metav1.Object:
		table.Rows = append(table.Rows, metav1.TableRow{
			Cells:  []any{o.GetName(), age(o.GetCreationTimestamp().Time, now)},
			Object: runtime.RawExtension{Object: object},
		})
	default:
		return nil, fmt.Errorf("print %T: no table is known for it", object)
	}
	if o, ok := options.(*metav1.TableOptions); ok && o != nil && o.NoHeaders {
		table.ColumnDefinitions = nil
	}
	return table, nil
}

func runRow(r *datav1alpha1.Run, now time.Time) metav1.TableRow {
	return metav1.TableRow{
		Cells: []any{
			r.Name, r.Spec.WorkflowName, r.Status.State, r.Status.Object, age(r.CreationTimestamp.Time, now),
			span(r.Status.StartedAt, r.Status.FinishedAt, now),
			r.Spec.Version, int64(r.Status.Attempts), r.Spec.Backend, r.Status.Parent,
			r.Status.ForkedFrom, r.Status.SupersededBy, r.Status.Reason, r.Status.Schedule,
		},
		Object: runtime.RawExtension{Object: r},
	}
}

func stepRow(s *datav1alpha1.Step, of *metav1.ObjectMeta, now time.Time) metav1.TableRow {
	started, length := "", ""
	if s.StartedAt != nil {
		started, length = age(s.StartedAt.Time, now), duration.HumanDuration(now.Sub(s.StartedAt.Time))
		if s.FinishedAt != nil {
			length = s.FinishedAt.Sub(s.StartedAt.Time).Round(time.Millisecond).String()
		}
	}
	return metav1.TableRow{
		Cells:  []any{s.Name, s.Kind, s.State, started, length, s.ErrorName, s.Child, s.Signal},
		Object: metadataOf(of),
	}
}

func whyRow(w *datav1alpha1.RunWhy, now time.Time) metav1.TableRow {
	since, until := "", ""
	if w.Since != nil {
		since = age(w.Since.Time, now)
	}
	if w.Until != nil {
		until = w.Until.UTC().Format(time.RFC3339)
	}
	return metav1.TableRow{
		Cells:  []any{w.Name, w.Reason, since, w.Message, w.Next, w.WorkflowName, w.State, until},
		Object: runtime.RawExtension{Object: w},
	}
}

func workflowRow(w *datav1alpha1.Workflow, now time.Time) metav1.TableRow {
	s := &w.Status
	oldest := ""
	if s.OldestRunnableAt != nil {
		oldest = age(s.OldestRunnableAt.Time, now)
	}
	perMinute, failed := s.Rates()
	return metav1.TableRow{
		Cells: []any{
			w.Name, datav1alpha1.AtLeast(s.Runnable), oldest, int64(s.Running), datav1alpha1.AtLeast(s.Waiting), perMinute, failed, s.Served,
			datav1alpha1.AtLeast(s.Suspended), duration.HumanDuration(time.Duration(s.Seconds) * time.Second), w.Spec.Backend,
		},
		Object: runtime.RawExtension{Object: w},
	}
}

func checkRows(d *datav1alpha1.Diagnosis) (rows []metav1.TableRow) {
	for i := range d.Checks {
		c := &d.Checks[i]
		rows = append(rows, metav1.TableRow{
			Cells:  []any{d.Name, c.Name, c.Outcome, c.Message, c.Next},
			Object: metadataOf(&d.ObjectMeta),
		})
	}
	return rows
}

// metadataOf is the object of a row that is only a part of one. The API server refuses rows without.
func metadataOf(of *metav1.ObjectMeta) runtime.RawExtension {
	return runtime.RawExtension{Object: &metav1.PartialObjectMetadata{ObjectMeta: *of}}
}

// age is the time since t, for people.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t))
}

// span is the time from the start to the end, or until now.
func span(start, end *metav1.Time, now time.Time) string {
	switch {
	case start == nil:
		return ""
	case end == nil:
		return duration.HumanDuration(now.Sub(start.Time))
	default:
		return duration.HumanDuration(end.Sub(start.Time))
	}
}
