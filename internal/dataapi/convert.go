package dataapi

import (
	"encoding/json"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// runOf returns the resource for a row, without payloads.
func (r *reader) runOf(view *store.RunView, backendName, namespace string) datav1alpha1.Run {
	run := &view.Run
	state, reason := projection.State(run)
	out := datav1alpha1.Run{
		ObjectMeta: objectMeta(run, namespace),
		Spec: datav1alpha1.RunSpec{
			Backend:        backendName,
			WorkflowName:   run.WorkflowName,
			Version:        text(run.Version),
			IdempotencyKey: text(run.IdempotencyKey),
			DeadlineAt:     timeOf(run.DeadlineAt),
		},
		Status: datav1alpha1.RunStatus{
			State:      string(state),
			Reason:     reason,
			Attempts:   int32(run.Attempts),
			Suspended:  run.SuspendedAt != nil && !state.Terminal(),
			StartedAt:  timeOf(run.StartedAt),
			FinishedAt: timeOf(run.FinishedAt),
			Parent:     view.ParentRunID,
			ArchivedAt: timeOf(view.ArchivedAt),
			Object:     r.objectOf(run, namespace),

			ForkedFrom: text(run.ForkedFrom), ForkStep: text(run.ForkStep), SupersededBy: text(run.SupersededBy),
		},
	}
	out.Status.Schedule, out.Status.ScheduledAt = r.scheduleOf(run, namespace)
	if len(run.Error) > 0 {
		out.Status.ErrorName = openworkflow.DecodeError(run.Error).Name
	}
	if run.WorkerID != nil {
		out.Status.Worker = *run.WorkerID
	}
	if !state.Terminal() && run.WorkerID == nil && run.SuspendedAt == nil {
		out.Status.NextAt = timeOf(run.AvailableAt)
	}
	return out
}

func objectMeta(run *openworkflow.Run, namespace string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:              run.ID,
		Namespace:         namespace,
		UID:               types.UID(run.ID),
		CreationTimestamp: metav1.NewTime(run.CreatedAt.UTC().Truncate(time.Second)),
	}
}

// objectOf names the WorkflowRun of this namespace and cluster that the run says it mirrors.
func (r *reader) objectOf(run *openworkflow.Run, namespace string) string {
	if o := run.Object(); o != nil && o.Cluster == r.cluster && o.Namespace == namespace {
		return o.Name
	}
	return ""
}

// scheduleOf names the WorkflowSchedule of this namespace and cluster that the run says has started it, and
// the slot.
func (r *reader) scheduleOf(run *openworkflow.Run, namespace string) (name string, slot *metav1.Time) {
	s := run.Schedule()
	if s == nil || s.Cluster != r.cluster || s.Namespace != namespace {
		return "", nil
	}
	if at, err := time.Parse(time.RFC3339, s.ScheduledAt); err == nil {
		slot = timeOf(&at)
	}
	return s.Name, slot
}

// stepOf returns the resource for a step attempt, without payloads.
func stepOf(a *openworkflow.StepAttempt) datav1alpha1.Step {
	step := datav1alpha1.Step{
		ID: a.ID, Name: a.StepName, Kind: string(a.Kind), State: string(a.Status), Child: text(a.ChildWorkflowRunID),
		CreatedAt: metav1.NewMicroTime(a.CreatedAt.UTC()), StartedAt: microTimeOf(a.StartedAt), FinishedAt: microTimeOf(a.FinishedAt),
	}
	if a.Status == openworkflow.StepSucceeded {
		step.State = string(openworkflow.StepCompleted)
	}
	if len(a.Error) > 0 {
		step.ErrorName = openworkflow.DecodeError(a.Error).Name
	}
	if c := openworkflow.DecodeWaitContext(a.Context); a.Kind != openworkflow.KindFunction {
		step.Signal = text(c.Signal)
		if until, err := c.Until(); err == nil && !until.IsZero() {
			step.Until = microTimeOf(&until)
		}
	}
	return step
}

// jsonOf returns a payload, nil for none.
func jsonOf(raw json.RawMessage) *apiextensionsv1.JSON {
	if len(raw) == 0 {
		return nil
	}
	return &apiextensionsv1.JSON{Raw: raw}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func timeOf(t *time.Time) *metav1.Time {
	if t == nil {
		return nil
	}
	return &metav1.Time{Time: t.UTC().Truncate(time.Second)}
}

func microTimeOf(t *time.Time) *metav1.MicroTime {
	if t == nil {
		return nil
	}
	return &metav1.MicroTime{Time: t.UTC()}
}
