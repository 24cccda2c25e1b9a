package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
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
	outcomes, more := s.Status.Outcomes, false
	if o.isSlots {
		slots, err := o.readSlots(ctx, s)
		if err != nil {
			return err
		}
		if !o.printer.plain() {
			return o.printer.print(o.Out, slots, nil)
		}
		outcomes, more = o.withSlots(s, slots)
	}
	if !o.printer.plain() {
		return o.printer.print(o.Out, s, nil)
	}
	if err := o.describeSchedule(s, outcomes); err != nil || !more {
		return err
	}
	o.note("There are slots before these: see more with --limit, or all with --limit 0.")
	return nil
}

// describeSchedule prints what a schedule does, and outcomes of its slots, newest first.
func (o *whyOptions) describeSchedule(s *v1alpha1.WorkflowSchedule, outcomes []v1alpha1.SlotOutcome) error {
	reason, message, since := v1alpha1.ReasonNotObserved, "the manager has not seen the WorkflowSchedule yet", ""
	if c := meta.FindStatusCondition(s.Status.Conditions, v1alpha1.ConditionReady); c != nil && c.Reason != v1alpha1.ReasonNotObserved {
		reason, message = c.Reason, c.Message
		since = fmt.Sprintf("%s (%s ago)", rfc3339(c.LastTransitionTime.Time), ageOf(c.LastTransitionTime, o.now()))
	}
	described := []string{"Schedule", s.Name, "Workflow", s.Spec.RunTemplate.WorkflowName, "Version", s.Spec.RunTemplate.Version,
		"Times", strings.Join(s.Spec.Schedules, ", ") + detail(" in ", s.Spec.TimeZone), "Reason", reason, "Since", since, "Why", message,
		"Paused since", timeText(s.Status.PausedSince), "Last start", timeText(s.Status.LastScheduleTime), "Next slot", timeText(s.Status.NextScheduleTime),
		"Waiting slot", timeText(s.Status.BufferedTime)}
	if n := ptr.Deref(s.Status.Failures, 0); n > 0 {
		described = append(described, "Failures", fmt.Sprintf("%d in a row", n))
	}
	described = append(described, "Open runs", strings.Join(s.Status.Active, " "))
	for i := range s.Status.Backfills {
		described = append(described, "Backfill", backfillText(&s.Status.Backfills[i]))
	}
	for _, outcome := range slices.Backward(outcomes) {
		described = append(described, "Slot", outcomeText(&outcome))
	}
	return fieldsOf(o.Out, described...)
}

// readSlots reads outcomes of a schedule from the data API, newest first. If there are more than the
// limit, the list says so by its Continue.
func (o *whyOptions) readSlots(ctx context.Context, s *v1alpha1.WorkflowSchedule) (*datav1alpha1.ScheduleSlotList, error) {
	data, err := o.data(ctx)
	if err != nil {
		return nil, err
	}
	selected := fields.Set{datav1alpha1.FieldSchedule: s.Name, datav1alpha1.FieldScheduleUID: string(s.UID)}
	if o.since > 0 {
		selected[datav1alpha1.FieldSlotFrom] = rfc3339(o.now().Add(-o.since))
	}
	all := &datav1alpha1.ScheduleSlotList{Items: []datav1alpha1.ScheduleSlot{}}
	for {
		size := maxChunk
		if o.limit > 0 {
			size = min(size, o.limit-len(all.Items))
		}
		page := &datav1alpha1.ScheduleSlotList{}
		request := data.rest.Get().Namespace(s.Namespace).Resource("scheduleslots").
			Param("fieldSelector", selected.AsSelector().String()).Param("limit", strconv.Itoa(size))
		if all.Continue != "" {
			request = request.Param("continue", all.Continue)
		}
		if err := request.Do(ctx).Into(page); err != nil {
			return nil, fmt.Errorf("read the slots of WorkflowSchedule %s: %w", s.Name, err)
		}
		all.Items = append(all.Items, page.Items...)
		if all.Continue = page.Continue; all.Continue == "" || o.limit > 0 && len(all.Items) >= o.limit {
			return all, nil
		}
	}
}

// withSlots returns the outcomes that the data API has and those of the status, which it may not have
// yet, oldest first, as the flags select. It reports whether there are more.
func (o *whyOptions) withSlots(s *v1alpha1.WorkflowSchedule, slots *datav1alpha1.ScheduleSlotList) (outcomes []v1alpha1.SlotOutcome, more bool) {
	known := map[int64]bool{}
	for _, outcome := range s.Status.Outcomes {
		last := cmp.Or(outcome.Until, outcome.Time)
		if outcome.Time == nil || o.since > 0 && last.Time.Before(o.now().Add(-o.since).Truncate(time.Second)) {
			continue
		}
		known[outcome.Time.Unix()] = true
		outcomes = append(outcomes, outcome)
	}
	for i := range slots.Items {
		slot := &slots.Items[i]
		if known[slot.Spec.Time.Unix()] {
			continue
		}
		outcomes = append(outcomes, v1alpha1.SlotOutcome{
			Time: &slot.Spec.Time, Until: slot.Spec.Until, Count: slot.Spec.Count,
			Reason: slot.Status.Reason, Run: slot.Status.Run, Message: slot.Status.Message,
		})
	}
	slices.SortStableFunc(outcomes, func(a, b v1alpha1.SlotOutcome) int { return a.Time.Compare(b.Time.Time) })
	more = slots.Continue != ""
	if o.limit > 0 && len(outcomes) > o.limit {
		outcomes, more = outcomes[len(outcomes)-o.limit:], true
	}
	return outcomes, more
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
