package projection

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Caps, in bytes of JSON. They keep a status below 8 KiB at any number of steps.
const (
	maxOutput           = 2048
	maxError            = 1024
	maxMessage          = 512
	maxConditionMessage = 256
	maxStepError        = 256
	maxWorker           = 253
	// MaxStepName is how much of the name of a step a status shows, in characters.
	MaxStepName = 128
	// MaxRunID is the length of the longest id of a run that a status shows whole.
	MaxRunID = 253
	// NewestSteps is how many step attempts a status shows.
	NewestSteps = 5
)

// Revision orders the statuses of a run. It grows with every claim and, within a claim, with
// every step event and with the claim's end. So two writers that read the same rows agree on
// it, and older rows always have the smaller one.
func Revision(run *openworkflow.Run, steps openworkflow.StepSummary) int64 {
	events := int64(int32Of(steps.Running)) + 2*(int64(int32Of(steps.Completed))+int64(int32Of(steps.Failed)))
	events = min(events, 1<<eventBits-1)
	return int64(int32Of(run.Attempts))<<(eventBits+phaseBits) | phase(run)<<eventBits | events
}

// The parts of a revision, from its least significant bit: step events, the phase of the claim,
// and the number of claims.
const eventBits, phaseBits = 18, 2

// Passes returns the part of a revision that claims and their ends change, but no step.
func Passes(revision int64) int64 { return revision >> eventBits }

// phase orders what can happen to a run between two claims: a worker executes it, gives it
// back, or ends it.
func phase(run *openworkflow.Run) int64 {
	switch {
	case run.Status.Terminal():
		return 2
	case run.Parked(), run.Status == openworkflow.RunPending && run.Attempts > 0:
		return 1
	default:
		return 0
	}
}

// Status returns the status of the object that mirrors the run. The worker is the name of the
// pod that holds the run or held it last, empty if the caller does not know it.
// ObservedGeneration is left to the manager, which alone has seen the object's spec.
func Status(run *openworkflow.Run, steps openworkflow.StepSummary, worker string) v1alpha1.WorkflowRunStatus {
	state := stateOf(run)
	if state == v1alpha1.RunWaiting && setAside(run, steps) {
		state = v1alpha1.RunPending
	}
	status := v1alpha1.WorkflowRunStatus{
		Revision: new(Revision(run, steps)),
		State:    state,
		RunID:    truncate(run.ID, MaxRunID),
		Worker:   truncate(worker, maxWorker),

		ForkedFrom:   lineageText(run.ForkedFrom, MaxRunID),
		ForkStep:     lineageText(run.ForkStep, MaxStepName),
		SupersededBy: lineageText(run.SupersededBy, MaxRunID),

		Attempts:  new(int32Of(run.Attempts)),
		StartedAt: timeOf(run.StartedAt),
		Steps:     stepsStatus(steps, state),
	}
	if state.Terminal() {
		status.FinishedAt = timeOf(run.FinishedAt)
		status.Duration = duration(run)
	} else if state != v1alpha1.RunRunning && run.SuspendedAt == nil {
		status.NextAt = timeOf(run.AvailableAt)
	}
	if state == v1alpha1.RunCompleted {
		status.Output, status.OutputTruncated = outputOf(run.Output)
	}
	if len(run.Error) > 0 && state != v1alpha1.RunCompleted && state != v1alpha1.RunCanceled {
		status.Error = errorOf(run.Error)
	}
	reason, message := explain(run, steps, state)
	if state != v1alpha1.RunCompleted { // a completed run needs no message
		status.Message = truncate(message, maxMessage)
	}
	status.Conditions = conditions(run, state, reason, message)
	return status
}

// lineageText returns a text of a run's config, empty for none.
func lineageText(text *string, limit int) string {
	if text == nil {
		return ""
	}
	return truncate(*text, limit)
}

func stateOf(run *openworkflow.Run) v1alpha1.RunState {
	switch run.Status {
	case openworkflow.RunCompleted, openworkflow.RunSucceeded:
		return v1alpha1.RunCompleted
	case openworkflow.RunFailed:
		return v1alpha1.RunFailed
	case openworkflow.RunCanceled:
		return v1alpha1.RunCanceled
	case openworkflow.RunRunning, openworkflow.RunSleeping:
		switch {
		case !run.Parked():
			return v1alpha1.RunRunning
		case released(run):
			return v1alpha1.RunPending
		default:
			return v1alpha1.RunWaiting
		}
	case openworkflow.RunPending:
		return v1alpha1.RunPending
	default: // R168: OpenWorkflow shows what it does not know as pending
		return v1alpha1.RunPending
	}
}

// released distinguishes a run that was given back to continue at once from one that waits:
// the former was due when it was written.
func released(run *openworkflow.Run) bool {
	return run.AvailableAt != nil && !run.AvailableAt.After(run.UpdatedAt)
}

// setAside reports whether the run waits to be executed again after its worker has died several
// times. A run that was parked for something else is due later, or has made progress.
func setAside(run *openworkflow.Run, steps openworkflow.StepSummary) bool {
	delays := openworkflow.DeathDelays()
	return run.Quarantined() && run.Parked() && run.AvailableAt != nil &&
		!run.AvailableAt.After(run.UpdatedAt.Add(delays[len(delays)-1])) && !run.MadeProgress(steps.Newest)
}

// QuarantineMessage says how often the run's worker has died, in which step, and when the run
// is executed again.
func QuarantineMessage(run *openworkflow.Run, steps openworkflow.StepSummary) string {
	step := truncate(openworkflow.SuspectedStep(steps.Newest), MaxStepName)
	return fmt.Sprintf("%s; next attempt%s, apart from other such runs", openworkflow.DescribeDeaths(step, run.Deaths), at(run.AvailableAt))
}

// explain says why the run is in its state, as a condition reason and a sentence.
func explain(run *openworkflow.Run, steps openworkflow.StepSummary, state v1alpha1.RunState) (reason, message string) {
	if run.SuspendedAt != nil && !state.Terminal() && state != v1alpha1.RunRunning {
		return v1alpha1.ReasonSuspended, "suspended; set spec.suspend to false to go on"
	}
	switch state {
	case v1alpha1.RunCompleted:
		return v1alpha1.ReasonCompleted, "the workflow has returned its output"
	case v1alpha1.RunFailed:
		failure := openworkflow.DecodeError(run.Error)
		if failure.Message == openworkflow.DeadlineMessage {
			return v1alpha1.ReasonDeadlineExceeded, "the run did not end before its deadline"
		}
		if failure.Name == openworkflow.WorkerDeathsName {
			return v1alpha1.ReasonWorkerDeathsExceeded, failure.Message
		}
		return v1alpha1.ReasonWorkflowFailed, failure.Message
	case v1alpha1.RunCanceled:
		return v1alpha1.ReasonCanceled, "the run was canceled"
	case v1alpha1.RunRunning:
		if step := newestRunning(steps); step != nil {
			return v1alpha1.ReasonRunning, fmt.Sprintf("executing step %q", step.StepName)
		}
		return v1alpha1.ReasonRunning, "executing"
	case v1alpha1.RunWaiting:
		return v1alpha1.ReasonWaiting, waitMessage(run, steps)
	case v1alpha1.RunPending:
		if setAside(run, steps) {
			return v1alpha1.ReasonQuarantined, QuarantineMessage(run, steps)
		}
		return explainPending(run)
	}
	return v1alpha1.ReasonPending, "waiting for a worker"
}

func explainPending(run *openworkflow.Run) (reason, message string) {
	switch {
	case run.Status == openworkflow.RunPending && run.Attempts > 0 && len(run.Error) > 0:
		return v1alpha1.ReasonRetrying, fmt.Sprintf("next attempt%s after: %s",
			at(run.AvailableAt), openworkflow.DecodeError(run.Error).Message)
	case run.Attempts > 0:
		return v1alpha1.ReasonPending, "waiting for a worker to go on"
	case run.AvailableAt != nil && run.AvailableAt.After(run.CreatedAt.Add(time.Second)):
		return v1alpha1.ReasonScheduled, "starts" + at(run.AvailableAt)
	default:
		return v1alpha1.ReasonPending, "waiting for a worker"
	}
}

func waitMessage(run *openworkflow.Run, steps openworkflow.StepSummary) string {
	step := newestRunning(steps)
	if step == nil {
		return "waiting" + at(run.AvailableAt)
	}
	message := fmt.Sprintf("waiting in step %q", step.StepName)
	switch step.Kind {
	case openworkflow.KindSleep:
		message = fmt.Sprintf("sleeping in step %q", step.StepName)
		if run.AvailableAt != nil && steps.Running == 1 {
			message += " until " + run.AvailableAt.UTC().Format(time.RFC3339)
		}
	case openworkflow.KindWorkflow:
		message = fmt.Sprintf("waiting for the child run of step %q", step.StepName)
	case openworkflow.KindSignalWait:
		message = fmt.Sprintf("waiting for %s in step %q", signalOf(step), step.StepName)
		if openworkflow.WaitsForApproval(step) {
			message = fmt.Sprintf("waiting for the approval of step %q", step.StepName)
		}
	case openworkflow.KindFunction, openworkflow.KindSignalSend:
	}
	if steps.Running > 1 {
		message += fmt.Sprintf(", and %d more", steps.Running-1)
	}
	return message
}

// signalOf names the signal that an attempt waits for (R25).
func signalOf(step *openworkflow.StepAttempt) string {
	c := openworkflow.DecodeWaitContext(step.Context)
	if c.Signal == nil {
		return "a signal"
	}
	return fmt.Sprintf("signal %q", *c.Signal)
}

func at(t *time.Time) string {
	if t == nil {
		return ""
	}
	return " at " + t.UTC().Format(time.RFC3339)
}

func newestRunning(steps openworkflow.StepSummary) *openworkflow.StepAttempt {
	for i := len(steps.Newest) - 1; i >= 0; i-- {
		if steps.Newest[i].Status == openworkflow.StepRunning {
			return &steps.Newest[i]
		}
	}
	return nil
}

// stepsStatus counts the steps and shows the newest ones, which say what is executed or what
// failed. For a completed run it shows none: they would be a third of the API server's work
// for the run, and of what etcd keeps.
func stepsStatus(steps openworkflow.StepSummary, state v1alpha1.RunState) *v1alpha1.StepsStatus {
	status := &v1alpha1.StepsStatus{
		Summary:   fmt.Sprintf("%d/%d", int32Of(steps.Completed), int32Of(max(steps.Names, steps.Completed))),
		Completed: countOf(steps.Completed),
		Running:   countOf(steps.Running),
		Failed:    countOf(steps.Failed),
	}
	if state.Terminal() { // a dead worker may have left a running row behind
		status.Running = nil
	}
	newest := steps.Newest
	if state == v1alpha1.RunCompleted {
		newest = nil
	}
	if len(newest) > NewestSteps {
		newest = newest[len(newest)-NewestSteps:]
	}
	for i := range newest {
		step := &newest[i]
		shown := v1alpha1.StepStatus{
			Name:       new(truncate(step.StepName, MaxStepName)),
			Kind:       truncate(string(step.Kind), 64),
			State:      truncate(string(step.Status), 64),
			StartedAt:  timeOf(step.StartedAt),
			FinishedAt: timeOf(step.FinishedAt),
		}
		if len(step.Error) > 0 {
			shown.Error = truncate(openworkflow.DecodeError(step.Error).Message, maxStepError)
		}
		status.Newest = append(status.Newest, shown)
	}
	return status
}

func errorOf(raw json.RawMessage) *v1alpha1.RunError {
	failure := openworkflow.DecodeError(raw)
	shown := &v1alpha1.RunError{
		Name:    truncate(failure.Name, MaxStepName),
		Message: truncate(failure.Message, maxError),
	}
	if shown.Message != failure.Message {
		shown.Truncated = new(true)
	}
	if shown.Name == "" && shown.Message == "" {
		shown.Message = "unknown error"
	}
	return shown
}

// duration is the time from start to end. A failed run has no start any more (R42), so its
// creation is used. A run that was never claimed has none.
func duration(run *openworkflow.Run) string {
	if run.FinishedAt == nil || run.Attempts == 0 {
		return ""
	}
	start := run.CreatedAt
	if run.StartedAt != nil {
		start = *run.StartedAt
	}
	d := max(run.FinishedAt.Sub(start), 0)
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

// truncate cuts text to at most limit bytes of JSON, not counting quotes, and marks the cut. It
// marks each byte that is not UTF-8, too.
func truncate(text string, limit int) string {
	const mark, longest = "…", 6 // the longest encoding of a byte is that of a control character
	text = strings.ToValidUTF8(text, string(utf8.RuneError))
	if len(text)*longest <= limit {
		return text
	}
	size, cut := 0, 0
	for i, r := range text {
		if size <= limit-len(mark) {
			cut = i
		}
		size += encodedSize(r)
		if size > limit {
			return text[:cut] + mark
		}
	}
	return text
}

func encodedSize(r rune) int {
	if r == ' ' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' {
		return 1 // the fast path, for nearly all
	}
	encoded, err := json.Marshal(string(r))
	if err != nil { // a string always marshals
		return 6
	}
	return len(encoded) - len(`""`)
}
