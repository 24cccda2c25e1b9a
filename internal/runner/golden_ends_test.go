package runner_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// runEnd is what is compared of a run.
type runEnd struct {
	Workflow, Version, Status, Input, Output, Error string
	Steps                                           []stepEnd
}

// stepEnd is what is compared of an attempt.
type stepEnd struct {
	Name, Kind, Status, Output, Error string
	// Signal is the signal that is waited for, and Wait for how long since the creation of the
	// attempt. Delivered is what was delivered.
	Signal, Delivered string
	Wait              time.Duration
}

// alike compares durations that were measured on different machines.
func alike(a, b time.Duration) bool {
	return (a - b).Abs() <= max(10*time.Second, max(a, b)/200)
}

// names returns a name for each run: the n-th of a workflow, or the child of a step of another.
func (x *trial) names(runs, steps []row) map[string]string {
	names := map[string]string{}
	counts := map[string]int{}
	for _, run := range x.golden.Stages[len(x.golden.Stages)-1].Runs {
		if run.text("parent_step_attempt_id") == "" {
			w := run.text("workflow_name")
			names[run.text("id")] = fmt.Sprintf("%s %d", w, counts[w])
			counts[w]++
		}
	}
	attempts := map[string]row{}
	for _, step := range steps {
		attempts[step.text("id")] = step
	}
	for named := -1; named != len(names); {
		named = len(names)
		for _, run := range runs {
			parent, ok := attempts[run.text("parent_step_attempt_id")]
			if name := names[parent.text("workflow_run_id")]; ok && name != "" {
				names[run.text("id")] = name + "/" + parent.text("step_name")
			}
		}
	}
	return names
}

// ends returns what is compared of rows, by the names of the runs, which also replace ids in
// texts.
func (x *trial) ends(runs, steps, signals []row) map[string]*runEnd {
	x.Helper()
	delivered := map[string]row{}
	for _, signal := range signals {
		delivered[signal.text("step_attempt_id")] = signal
	}
	names := x.names(runs, steps)
	var replacements []string
	for id, name := range names {
		replacements = append(replacements, id, name)
	}
	ids := strings.NewReplacer(replacements...)

	ends := map[string]*runEnd{}
	for _, run := range runs {
		name := names[run.text("id")]
		if name == "" || ends[name] != nil {
			name = "stray " + run.text("id")
		}
		ends[name] = &runEnd{
			Workflow: run.text("workflow_name"), Version: run.text("version"), Status: run.text("status"),
			Input: plain(run["input"], ids), Output: plain(run["output"], ids), Error: plain(run["error"], ids),
		}
	}
	for _, step := range steps {
		end := ends[names[step.text("workflow_run_id")]]
		if end == nil {
			x.Errorf("attempt %s belongs to no run", step.text("id"))
			continue
		}
		var wait struct{ Signal, ResumeAt, TimeoutAt string }
		_ = json.Unmarshal(step["context"], &wait)
		s := stepEnd{
			Name: step.text("step_name"), Kind: step.text("kind"), Status: step.text("status"),
			Output: plain(step["output"], ids), Error: plain(step["error"], ids), Signal: wait.Signal,
		}
		if at, err := openworkflow.ParseTime(wait.ResumeAt + wait.TimeoutAt); err == nil {
			s.Wait = at.Sub(step.time("created_at"))
		}
		if signal, ok := delivered[step.text("id")]; ok {
			s.Delivered = signal.text("signal") + ": " + plain(signal["data"], ids)
		}
		end.Steps = append(end.Steps, s)
	}
	for _, end := range ends {
		end.sort()
	}
	return ends
}

func (r *runEnd) sort() {
	slices.SortFunc(r.Steps, func(a, b stepEnd) int {
		return strings.Compare(a.Name+a.Status+a.Output, b.Name+b.Status+b.Output)
	})
}

// plain returns a JSON value in a canonical form, without parts that may differ.
func plain(value json.RawMessage, ids *strings.Replacer) string {
	if len(value) == 0 {
		return "null"
	}
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return string(value)
	}
	if failure, ok := v.(map[string]any); ok && failure["message"] != nil {
		delete(failure, "stack")
	}
	if sent, ok := v.(map[string]any); ok {
		sortRecipients(sent)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return string(value)
	}
	return ids.Replace(string(b))
}

// sortRecipients sorts the recipients of signals, which have no order (R104).
func sortRecipients(v map[string]any) {
	for key, member := range v {
		switch member := member.(type) {
		case []any:
			if key == "workflowRunIds" {
				slices.SortFunc(member, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
			}
		case map[string]any:
			sortRecipients(member)
		}
	}
}

// wanted returns the expected end: that of the last stage, with what the rules or our
// departures change.
func (x *trial) wanted(s scenario) map[string]*runEnd {
	x.Helper()
	last := x.golden.Stages[len(x.golden.Stages)-1]
	final := map[string]row{}
	for _, step := range last.Steps {
		final[step.text("id")] = step
	}
	began := map[string]bool{}
	steps := slices.Clone(last.Steps)
	for _, step := range x.steps0 {
		began[step.text("id")] = true
		// A function attempt that was running stays so, and the step is executed again under
		// another attempt (R91). A TypeScript worker that had not died would not do that.
		if step.text("kind") == "function" && step.text("status") == "running" &&
			final[step.text("id")].text("status") != "running" {
			steps = append(steps, step)
		}
	}
	// TypeScript loses the results of functions whose siblings park or fail (R86); here
	// they are not lost (decision 13).
	steps = slices.DeleteFunc(steps, func(step row) bool {
		return step.text("kind") == "function" && step.text("status") == "running" && !began[step.text("id")] &&
			slices.ContainsFunc(last.Steps, func(other row) bool {
				return other.text("workflow_run_id") == step.text("workflow_run_id") &&
					other.text("step_name") == step.text("step_name") && other.text("status") == "completed"
			})
	})
	want := x.ends(last.Runs, steps, last.Signals)
	if s.depart != nil {
		s.depart(x, want)
	}
	for _, end := range want {
		end.sort()
	}
	return want
}
