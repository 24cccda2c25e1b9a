package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const (
	// barWidth is the number of characters that stand for the whole time.
	barWidth = 32
	// nameWidth is the number of characters of a step's name that are shown.
	nameWidth = 40
)

// timelineOptions say how much of a timeline is shown.
type timelineOptions struct {
	// steps is the largest number of attempts, 0 for all.
	steps int
	wide  bool
}

// printTimeline prints the step attempts of a run, each as a bar: # an execution, . a wait, x a
// failed attempt. What a run still waited for has lasted until its end.
func printTimeline(out io.Writer, steps []datav1alpha1.Step, run *datav1alpha1.Run, now time.Time, o timelineOptions) error {
	if len(steps) == 0 {
		_, err := io.WriteString(out, "Steps:  <none>\n")
		return err
	}
	if ended := run.Status.FinishedAt; ended != nil && ended.Time.Before(now) {
		now = ended.Time
	}
	attempts := attemptsOf(steps)
	scale := scaleOf(steps, run, now)
	if _, err := fmt.Fprintf(out, "Steps:  %s over %s, # executes, . waits, x failed\n", countSteps(steps), short(scale.length)); err != nil {
		return err
	}
	text := &strings.Builder{}
	header := "  START\tTIMELINE\tSTEP\tKIND\tSTATUS\tDURATION\tDETAILS"
	if o.wide {
		header += "\tATTEMPT-ID"
	}
	text.WriteString(header + "\n")
	head, tail := bounds(len(steps), o.steps)
	for i := range steps {
		if i == head && head < tail {
			fmt.Fprintf(text, "  ...\t%s\t%d more attempts, see --steps 0\t\t\t\t\n", strings.Repeat(" ", barWidth), tail-head)
		}
		if i < head || i >= tail {
			printStep(text, &steps[i], attempts[i], scale, o.wide)
		}
	}
	return printColumns(out, text.String())
}

func printStep(text *strings.Builder, s *datav1alpha1.Step, attempt int, scale scale, wide bool) {
	start, end := timesOf(s, scale.now)
	fmt.Fprintf(text, "  %s\t%s\t%s\t%s\t%s\t%s\t%s", short(start.Sub(scale.start)), scale.bar(s),
		line(s.Name, nameWidth), s.Kind, s.State, short(end.Sub(start)), details(s, attempt))
	if wide {
		fmt.Fprintf(text, "\t%s", s.ID)
	}
	text.WriteString("\n")
}

// details says what else there is: the error, the number of the attempt, what is waited for.
func details(s *datav1alpha1.Step, attempt int) string {
	var parts []string
	if attempt > 1 {
		parts = append(parts, fmt.Sprintf("attempt %d", attempt))
	}
	if s.ErrorName != "" {
		parts = append(parts, line(s.ErrorName, nameWidth))
	}
	if s.Child != "" {
		parts = append(parts, "run "+line(s.Child, nameWidth))
	}
	if s.Signal != "" {
		parts = append(parts, "signal "+line(s.Signal, nameWidth))
	}
	if s.Until != nil && s.FinishedAt == nil {
		parts = append(parts, "until "+rfc3339(s.Until.Time))
	}
	return strings.Join(parts, ", ")
}

// bounds returns which attempts are left out: those from head to before tail. Where there are too
// many, a quarter of what is shown is the first ones.
func bounds(count, limit int) (head, tail int) {
	if limit == 0 || count <= limit {
		return count, count
	}
	head = limit / 4
	return head, count - (limit - head)
}

// attemptsOf numbers the attempts of each step.
func attemptsOf(steps []datav1alpha1.Step) []int {
	numbers, seen := make([]int, len(steps)), map[string]int{}
	for i := range steps {
		seen[steps[i].Name]++
		numbers[i] = seen[steps[i].Name]
	}
	return numbers
}

// countSteps summarizes steps as "3 completed, 1 running, 1 failed attempt".
func countSteps(steps []datav1alpha1.Step) string {
	counts := map[string]int{}
	for i := range steps {
		counts[steps[i].State]++
	}
	parts := []string{fmt.Sprintf("%d completed", counts["completed"])}
	if n := counts["running"]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d running", n))
	}
	if n := counts["failed"]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d failed", n))
	}
	return strings.Join(parts, ", ")
}

// scale places times on the bars of a timeline.
type scale struct {
	start, now time.Time
	length     time.Duration
}

// scaleOf spans from the run's first claim to its end, or to now, and at least over its steps.
func scaleOf(steps []datav1alpha1.Step, run *datav1alpha1.Run, now time.Time) scale {
	first, _ := timesOf(&steps[0], now)
	var last time.Time
	for i := range steps {
		start, end := timesOf(&steps[i], now)
		if start.Before(first) {
			first = start
		}
		if end.After(last) {
			last = end
		}
	}
	if run.Status.FinishedAt == nil && now.After(last) {
		last = now
	}
	return scale{start: first, now: now, length: last.Sub(first)}
}

// timesOf returns from when to when an attempt lasted, or lasts.
func timesOf(s *datav1alpha1.Step, now time.Time) (start, end time.Time) {
	start = s.CreatedAt.Time
	if s.StartedAt != nil {
		start = s.StartedAt.Time
	}
	end = now
	if s.FinishedAt != nil {
		end = s.FinishedAt.Time
	}
	if end.Before(start) {
		end = start
	}
	return start, end
}

// bar draws an attempt. It has at least one character.
func (c scale) bar(s *datav1alpha1.Step) string {
	start, end := timesOf(s, c.now)
	from, to := c.at(start), c.at(end)
	if to <= from {
		to = from + 1
	}
	if to > barWidth {
		from, to = min(from, barWidth-1), barWidth
	}
	mark := "#"
	switch {
	case s.State == "failed":
		mark = "x"
	case s.Kind != "function":
		mark = "."
	}
	return strings.Repeat(" ", from) + strings.Repeat(mark, to-from) + strings.Repeat(" ", barWidth-to)
}

// at returns the column of a time.
func (c scale) at(t time.Time) int {
	if c.length <= 0 {
		return 0
	}
	return int(int64(barWidth) * int64(t.Sub(c.start)/time.Microsecond) / max(1, int64(c.length/time.Microsecond)))
}
