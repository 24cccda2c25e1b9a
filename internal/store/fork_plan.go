package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// ForkPlan is what a fork takes over from its source.
type ForkPlan struct {
	// Run is the new run, with what it has from the source.
	Run NewRun
	// Step and Kept are those of ForkResult.
	Step *string
	Kept int
	// Copies are the attempts to copy, in the order of the source's history.
	Copies []ForkCopy
}

// ForkCopy is an attempt of the source that the fork takes over.
type ForkCopy struct {
	AttemptID string
	// Corrected attempts are completed with Output, whatever became of them in the source.
	Corrected bool
	Output    json.RawMessage
}

// NewForkPlan decides what a fork of the source takes over. It is pure, and what both stores do.
// The attempts are all of the source, in the order of its history; of their values only the
// errors matter.
//
// A step that has a result is taken over if it began before the fork point: Go and TypeScript
// begin a step only once everything that it may depend on is stored. So what a taken-over step
// was computed from is taken over too, or has failed, or was left out on request
// (RestartChildren, Outputs).
//
// Failures are left out, so that the fork has all its retries, with one exception: a failure
// that the workflow went on after (it caught it, and a taken-over step began later) decided what
// was called next. Without it the fork could do both: what it had tried first, and what the
// source did instead.
func NewForkPlan(source *openworkflow.Run, attempts []openworkflow.StepAttempt, r ForkRequest) (*ForkPlan, error) {
	switch {
	case !source.Status.Terminal():
		return nil, fmt.Errorf("run %s is %s: %w", source.ID, source.Status, ErrNotEnded)
	case r.Once && source.SupersededBy != nil:
		return nil, fmt.Errorf("run %s, by run %s: %w", source.ID, *source.SupersededBy, ErrSuperseded)
	case r.Run.ID == source.ID:
		return nil, invalidFork("run %s cannot be its own fork: the new run needs another id", source.ID)
	case r.From.Step != nil && r.From.LastFailed:
		return nil, invalidFork("a fork starts either from a named step or from the one that failed, not from both")
	}
	h := newForkHistory(source, attempts)
	from, follows, err := h.forkPoint(r.From)
	if err != nil {
		return nil, err
	}
	outputs, err := h.outputs(from, follows, r)
	if err != nil {
		return nil, err
	}
	plan := &ForkPlan{Run: r.newRun(source)}
	if from != nil {
		plan.Step = &from.name
	}
	takesOver := func(s *forkStep) bool {
		return s != from && !follows(s) && (!r.RestartChildren || s.kind != openworkflow.KindWorkflow)
	}
	copies := map[string]ForkCopy{}
	plan.Kept = h.copyResults(copies, takesOver, outputs)
	for _, a := range attempts {
		if c, ok := copies[a.ID]; ok {
			plan.Copies = append(plan.Copies, c)
		}
	}
	return plan, nil
}

// newRun returns the new run, with what it has from its source.
func (r ForkRequest) newRun(source *openworkflow.Run) NewRun {
	run := r.Run
	run.WorkflowName, run.Version = source.WorkflowName, source.Version
	if run.Input == nil {
		run.Input = source.Input
	}
	return run
}

// copyResults adds the attempts of the steps that are taken over, by id, and returns the number
// of steps with a result. Steps with corrected outputs are taken over too.
func (h *forkHistory) copyResults(
	copies map[string]ForkCopy, takesOver func(*forkStep) bool, outputs map[string]json.RawMessage,
) int {
	var kept, failed []*forkStep
	for _, s := range h.steps {
		output, corrected := outputs[s.name]
		switch {
		case corrected:
			base := cmp.Or(s.completed, s.last)
			copies[base.ID] = ForkCopy{AttemptID: base.ID, Corrected: true, Output: output}
			kept = append(kept, s)
		case !takesOver(s):
		case s.completed != nil:
			copies[s.completed.ID] = ForkCopy{AttemptID: s.completed.ID}
			kept = append(kept, s)
		default:
			failed = append(failed, s)
		}
	}
	for _, s := range failed {
		if !s.wentOn(kept) {
			continue
		}
		for _, a := range s.failures {
			copies[a.ID] = ForkCopy{AttemptID: a.ID}
		}
	}
	return len(kept)
}

// History returns the attempts that the fork begins with, of those of its source.
func (p *ForkPlan) History(attempts []openworkflow.StepAttempt) []openworkflow.StepAttempt {
	byID := make(map[string]openworkflow.StepAttempt, len(attempts))
	for _, a := range attempts {
		byID[a.ID] = a
	}
	history := make([]openworkflow.StepAttempt, 0, len(p.Copies))
	for _, c := range p.Copies {
		a := byID[c.AttemptID]
		if c.Corrected {
			a.Status, a.Output, a.Error = openworkflow.StepCompleted, openworkflow.Column(c.Output), nil
		}
		history = append(history, a)
	}
	return history
}

func invalidFork(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidFork, fmt.Sprintf(format, args...))
}

// forkHistory is the history of a source by step, in the order in which the steps began.
type forkHistory struct {
	source *openworkflow.Run
	steps  []*forkStep
	byName map[string]*forkStep
}

// forkStep is the attempts of one step.
type forkStep struct {
	name        string
	kind        openworkflow.StepKind
	first, last *openworkflow.StepAttempt
	// completed is the last completed attempt (R71), nil for none.
	completed *openworkflow.StepAttempt
	failures  []*openworkflow.StepAttempt
}

func newForkHistory(source *openworkflow.Run, attempts []openworkflow.StepAttempt) *forkHistory {
	h := &forkHistory{source: source, byName: map[string]*forkStep{}}
	for i := range attempts {
		a := &attempts[i]
		s := h.byName[a.StepName]
		if s == nil {
			s = &forkStep{name: a.StepName, kind: a.Kind, first: a}
			h.byName[a.StepName] = s
			h.steps = append(h.steps, s)
		}
		s.last = a
		switch a.Status {
		case openworkflow.StepCompleted, openworkflow.StepSucceeded:
			s.completed = a
		case openworkflow.StepFailed:
			s.failures = append(s.failures, a)
		case openworkflow.StepRunning:
		}
	}
	slices.SortStableFunc(h.steps, func(a, b *forkStep) int { return a.began().Compare(b.began()) })
	return h
}

// began returns when the step's first attempt began. In Go, rows of short steps are written when
// they end, so created_at is later.
func (s *forkStep) began() time.Time {
	if s.first.StartedAt != nil {
		return *s.first.StartedAt
	}
	return s.first.CreatedAt
}

// failed returns the error with which the step failed for good, as far as the history tells.
func (s *forkStep) failed() (failure *openworkflow.StepAttempt, ok bool) {
	if s.completed != nil || len(s.failures) == 0 {
		return nil, false
	}
	return s.failures[len(s.failures)-1], true
}

// mayFollow reports whether the step may have begun because another one ended at that instant. A
// function begins once that is stored. A wait may be written in the same transaction, and its
// start, a duration before that, is then no proof.
func (s *forkStep) mayFollow(end time.Time) bool {
	switch {
	case !s.began().Before(end):
		return true
	case s.kind == openworkflow.KindFunction, s.kind == openworkflow.KindSignalSend:
		return false
	default:
		return !s.first.CreatedAt.Before(end.Truncate(time.Millisecond))
	}
}

// wentOn reports whether one of the steps may have begun because this one has failed.
func (s *forkStep) wentOn(steps []*forkStep) bool {
	failure, ok := s.failed()
	return ok && slices.ContainsFunc(steps, func(other *forkStep) bool { return other.mayFollow(endOf(failure)) })
}

// endOf returns when an attempt has ended.
func endOf(a *openworkflow.StepAttempt) time.Time {
	if a.FinishedAt != nil {
		return *a.FinishedAt
	}
	return a.UpdatedAt
}

// forkPoint returns the step from which the fork is executed anew, nil for none, and which
// others are executed anew because they came after it.
func (h *forkHistory) forkPoint(from ForkPoint) (step *forkStep, follows func(*forkStep) bool, err error) {
	switch {
	case from.Step != nil:
		if step = h.byName[*from.Step]; step == nil {
			return nil, nil, h.unknownStep(*from.Step)
		}
		at := slices.Index(h.steps, step)
		later := make(map[*forkStep]bool, len(h.steps))
		for _, s := range h.steps[at+1:] {
			later[s] = true
		}
		return step, func(s *forkStep) bool { return later[s] }, nil
	case !from.LastFailed:
		return nil, func(*forkStep) bool { return true }, nil
	case h.source.Status == openworkflow.RunCompleted || h.source.Status == openworkflow.RunSucceeded:
		return nil, nil, invalidFork("run %s has completed, so none of its steps has made it fail: name a step, or start from nothing", h.source.ID)
	}
	step = h.endingFailure()
	if step == nil {
		return nil, func(*forkStep) bool { return false }, nil
	}
	failure, _ := step.failed()
	end := endOf(failure)
	return step, func(s *forkStep) bool { return s.mayFollow(end) }, nil
}

// endingFailure returns the step whose failure ended the source: its error is that of the run
// (R77), or is wrapped in it, as errors of Go workflows are. It returns nil if the workflow's own
// code has failed, at its deadline, or if the run was canceled.
func (h *forkHistory) endingFailure() *forkStep {
	if h.source.Status != openworkflow.RunFailed || h.source.Error == nil {
		return nil
	}
	end := openworkflow.DecodeError(h.source.Error)
	message := beginning(end.Message)
	var same, wrapped *forkStep
	for _, s := range h.steps {
		failure, ok := s.failed()
		if !ok {
			continue
		}
		e := openworkflow.DecodeError(failure.Error)
		switch {
		case e.Name == end.Name && beginning(e.Message) == message:
			same = s
		case wrapped == nil && strings.Contains(end.Message, beginning(openworkflow.StepFailure(s.name, e.Message))):
			wrapped = s
		}
	}
	return cmp.Or(same, wrapped)
}

// beginning returns what is compared of an error's text. Of long errors, no more is read.
func beginning(text string) string {
	const compared = 1000 // bytes, less than maxShownText
	return text[:min(len(text), compared)]
}

// outputs checks the corrected outputs of a request and returns them as they are stored (R26).
func (h *forkHistory) outputs(
	from *forkStep, follows func(*forkStep) bool, r ForkRequest,
) (stored map[string]json.RawMessage, err error) {
	stored = make(map[string]json.RawMessage, len(r.Outputs))
	for _, name := range slices.Sorted(maps.Keys(r.Outputs)) {
		s, output := h.byName[name], r.Outputs[name]
		switch {
		case s == nil:
			return nil, fmt.Errorf("output of a step: %w", h.unknownStep(name))
		case r.From == ForkPoint{}:
			return nil, invalidFork("output of step %q: a fork that starts from nothing takes over no outputs", name)
		case s.kind == openworkflow.KindSleep, s.kind == openworkflow.KindSignalSend:
			return nil, invalidFork("output of step %q: a step of kind %s has none that could be corrected", name, s.kind)
		case s != from && follows(s):
			return nil, invalidFork("output of step %q: it began after step %q, from which the fork starts", name, from.name)
		case !json.Valid(output):
			return nil, invalidFork("output of step %q: it is not JSON", name)
		case s.kind == openworkflow.KindSignalWait:
			output = slices.Concat(json.RawMessage(`{"data":`), output, json.RawMessage(`}`))
		}
		stored[name] = output
	}
	return stored, nil
}

// nearNames is how many names of steps an error shows.
const nearNames = 3

func (h *forkHistory) unknownStep(name string) error {
	if len(h.steps) == 0 {
		return invalidFork("run %s has no step %q: it has none at all", h.source.ID, name)
	}
	distances := make(map[string]int, len(h.byName))
	for known := range h.byName {
		distances[known] = distance(known, name)
	}
	names := slices.SortedFunc(maps.Keys(distances), func(a, b string) int {
		return cmp.Or(cmp.Compare(distances[a], distances[b]), strings.Compare(a, b))
	})
	near := make([]string, 0, nearNames)
	for _, n := range names[:min(len(names), nearNames)] {
		near = append(near, fmt.Sprintf("%q", cutText(n)))
	}
	return invalidFork("run %s has no step %q; the nearest of its %d steps: %s",
		h.source.ID, cutText(name), len(names), strings.Join(near, ", "))
}

// distance is how many bytes must be inserted, removed or replaced to make one text the other. Of
// long texts only the beginnings count.
func distance(a, b string) int {
	const longest = 64
	a, b = a[:min(len(a), longest)], b[:min(len(b), longest)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
