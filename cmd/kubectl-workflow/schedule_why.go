package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// whyOutcome says what the outcome of a slot means.
var whyOutcome = map[string]string{
	"Started":          "run",
	"Buffered":         "waits for the end of an open run",
	"SkippedOverlap":   "not started: a run was open, or another slot waited for its end",
	"SkippedSuspended": "not started: the schedule was suspended, or paused after failures",
	"SkippedGap":       "not started: the clock skipped this time of day",
	"Missed":           "not started: too late for startingDeadlineSeconds, or for catchUp: None",
	"Coalesced":        "not started: no manager was there, and a later slot has started in its place",
}

// schedule says what a WorkflowSchedule does, and what has happened to its newest slots.
func (o *whyOptions) schedule(ctx context.Context, argument string) error {
	s, err := o.readSchedule(ctx, argument)
	if err != nil {
		return err
	}
	if !o.printer.plain() {
		return o.printer.print(o.Out, s, nil)
	}
	reason, message, since := v1alpha1.ReasonNotObserved, "the manager has not seen the WorkflowSchedule yet", ""
	if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Reason != v1alpha1.ReasonNotObserved {
		reason, message = c.Reason, c.Message
		since = fmt.Sprintf("%s (%s ago)", rfc3339(c.LastTransitionTime.Time), ageOf(c.LastTransitionTime, o.now()))
	}
	fields := []string{"Schedule", s.Name, "Workflow", s.Spec.RunTemplate.WorkflowName, "Version", s.Spec.RunTemplate.Version,
		"Times", strings.Join(s.Spec.Schedules, ", ") + detail(" in ", s.Spec.TimeZone), "Reason", reason, "Since", since, "Why", message,
		"Paused since", timeText(s.Status.PausedSince), "Last start", timeText(s.Status.LastScheduleTime), "Next slot", timeText(s.Status.NextScheduleTime),
		"Waiting slot", timeText(s.Status.BufferedTime)}
	if n := ptr.Deref(s.Status.Failures, 0); n > 0 {
		fields = append(fields, "Failures", fmt.Sprintf("%d in a row", n))
	}
	fields = append(fields, "Open runs", strings.Join(s.Status.Active, " "))
	for i := range s.Status.Backfills {
		fields = append(fields, "Backfill", backfillText(&s.Status.Backfills[i]))
	}
	for _, outcome := range slices.Backward(s.Status.Outcomes) {
		fields = append(fields, "Slot", outcomeText(&outcome))
	}
	return fieldsOf(o.Out, fields...)
}

// outcomeText tells the outcome of a slot, or of several.
func outcomeText(o *v1alpha1.SlotOutcome) string {
	text := timeText(o.Time)
	if o.Until != nil {
		text += fmt.Sprintf(" to %s (%d slots)", rfc3339(o.Until.Time), o.Count)
	}
	why := whyOutcome[o.Reason]
	if o.Message != "" {
		why = o.Message
	} else if o.Run != "" {
		why += " " + o.Run
	}
	return fmt.Sprintf("%s %s: %s", text, o.Reason, why)
}

// backfillText tells how far a backfill is.
func backfillText(b *v1alpha1.BackfillStatus) string {
	text := fmt.Sprintf("%s %s", b.Name, b.State)
	if b.Slots > 0 {
		text += fmt.Sprintf(", %d slots: %d started, %d skipped; runs: %d open, %d completed, %d failed, %d canceled",
			b.Slots, b.Started, b.Skipped, len(b.Active)+len(b.Starting), b.Completed, b.Failed, b.Canceled)
	}
	return text + detail("; ", b.Message)
}
