//go:build interop

package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// shown is a run and what can be seen of it.
type shown struct {
	run    string
	status openworkflow.RunStatus
	// steps are the names of its attempts, with kind and status.
	steps []string
}

// showcase makes runs in Go that have, together, all statuses and all kinds of step,
// and the columns that are ours.
func (l *lab) showcase() []shown {
	l.Helper()
	type object = map[string]any
	l.worker(golang, "steps", "nap", "flaky", "parallel", "failing", "parent", "catching", "waiter", "sender", "versioned@2")
	c := l.goClient()
	const (
		one     = "one function completed"
		last    = "last function completed"
		failed  = "flaky function failed"
		pending = openworkflow.RunPending
	)
	var all []shown
	show := func(r newRun, status openworkflow.RunStatus, steps ...string) string {
		run := c.start(r)
		all = append(all, shown{run: run, status: status, steps: steps})
		return run
	}
	show(newRun{workflow: "steps", input: object{}}, openworkflow.RunCompleted, one, "two function completed", "held function completed", last)
	show(newRun{workflow: "parallel"}, openworkflow.RunCompleted, "a function completed", "b function completed", "c function completed", last)
	show(newRun{workflow: "nap", input: object{"milliseconds": 50}}, openworkflow.RunCompleted, one, "rest sleep completed", last)
	show(newRun{workflow: "nap", input: object{"milliseconds": 3_600_000}}, openworkflow.RunRunning, one, "rest sleep running")
	show(newRun{workflow: "flaky", input: object{"failures": 9, "attempts": 2, "milliseconds": 10}}, openworkflow.RunFailed, one, failed, failed)
	show(newRun{workflow: "flaky", input: object{"failures": 1, "attempts": 2, "milliseconds": 3_600_000}}, pending, one, failed)
	show(newRun{workflow: "failing", input: object{"message": "no luck"}}, openworkflow.RunFailed)
	show(newRun{workflow: "versioned", version: "2"}, openworkflow.RunCompleted, "by function completed")
	show(newRun{workflow: "steps", availableAt: time.Now().Add(time.Hour), deadlineAt: time.Now().Add(2 * time.Hour)}, pending)
	show(newRun{workflow: "parent", input: object{"child": "nap", "input": object{"milliseconds": 50}}}, openworkflow.RunCompleted,
		one, "child workflow completed", last)
	show(newRun{workflow: "catching", input: object{"child": "failing", "input": object{"message": "no luck"}}}, openworkflow.RunCompleted,
		"child workflow failed", last)
	received := show(newRun{workflow: "waiter", input: object{"signal": "sent"}}, openworkflow.RunCompleted, one, "wait signal-wait completed", last)
	show(newRun{workflow: "waiter", input: object{"signal": "never"}}, openworkflow.RunRunning, one, "wait signal-wait running")
	canceled := show(newRun{workflow: "nap", input: object{"milliseconds": 3_600_000}}, openworkflow.RunCanceled, one, "rest sleep running")
	suspended := show(newRun{workflow: "nap", input: object{"milliseconds": 3_600_000}}, openworkflow.RunRunning, one, "rest sleep running")

	l.parked(received, "wait")
	show(newRun{workflow: "sender", input: object{"signal": "sent", "data": 1}}, openworkflow.RunCompleted, one, "send signal-send completed", last)
	for _, run := range []string{canceled, suspended} {
		l.parked(run, "rest")
	}
	c.cancel(canceled)
	if _, err := l.store.SuspendRuns(l.Context(), []string{suspended}); err != nil {
		l.Fatal(err)
	}
	for _, s := range all {
		l.until("run "+s.run+" to be "+string(s.status), `
			SELECT status = $2 AND (SELECT count(*) FROM openworkflow.step_attempts WHERE workflow_run_id = $1) = $3
			FROM openworkflow.workflow_runs WHERE id = $1`, s.run, s.status, len(s.steps))
	}
	return all
}

// OpenWorkflow's own client lists and counts our runs and their steps, page by page.
func TestP8OpenWorkflowsClientReadsOurRuns(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	want := l.showcase()
	result, failure := l.node().call("pages", map[string]any{"limit": 2})
	if failure != "" {
		t.Fatal(failure)
	}
	var got struct {
		Runs []struct {
			ID     string
			Status openworkflow.RunStatus
			Steps  []struct{ StepName, Kind, Status string }
		}
		Counts map[string]int
	}
	if err := json.Unmarshal(result, &got); err != nil {
		t.Fatal(err)
	}
	if n := read[int](l, `SELECT count(*) FROM openworkflow.workflow_runs`); len(got.Runs) != n {
		t.Errorf("it lists %d of %d runs", len(got.Runs), n)
	}
	counts := map[string]int{}
	for _, run := range got.Runs {
		counts[string(run.Status)]++
		i := slices.IndexFunc(want, func(s shown) bool { return s.run == run.ID })
		if i < 0 {
			continue // a child
		}
		var steps []string
		for _, s := range run.Steps {
			steps = append(steps, s.StepName+" "+s.Kind+" "+s.Status)
		}
		slices.Sort(steps)
		slices.Sort(want[i].steps)
		if run.Status != want[i].status || !slices.Equal(steps, want[i].steps) {
			t.Errorf("run %s is %s with steps %q, want %s with %q", run.ID, run.Status, steps, want[i].status, want[i].steps)
		}
		want = slices.Delete(want, i, i+1)
	}
	if len(want) > 0 {
		t.Errorf("it does not list %v", want)
	}
	for status, n := range got.Counts {
		if n != counts[status] {
			t.Errorf("it counts %d runs %s, and lists %d", n, status, counts[status])
		}
	}
}

// OpenWorkflow's dashboard shows our runs and their steps in a real browser, without
// an error on any page.
func TestP8OpenWorkflowsDashboardShowsOurRuns(t *testing.T) {
	t.Parallel()
	program := os.Getenv("OPENWORKFLOW_DASHBOARD")
	if program == "" { // it is a package of its own, which is not in every npm registry, so the lock file cannot name it
		t.Skip("OPENWORKFLOW_DASHBOARD is not set: set it to bin.mjs of the npm package @openworkflow/dashboard, see CONTRIBUTING.md")
	}
	l := newLab(t)
	runs := l.showcase()
	// The dashboard's list says how long ago runs started, by the server's clock and then by
	// the browser's, and React calls it error 418 when these texts differ. Those of runs that
	// started minutes ago differ often, whoever has written their rows; hours last.
	l.exec(`UPDATE openworkflow.workflow_runs SET started_at = started_at - interval '3 hours'`)
	url := l.dashboard(program)

	ids := make([]string, len(runs))
	for i, s := range runs {
		ids[i] = s.run
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	browser := exec.CommandContext(ctx, "node", append([]string{"typescript/browser.mjs", url}, ids...)...)
	browser.Stderr = t.Output()
	output, err := browser.Output()
	if err != nil {
		t.Fatalf("the browser: %v", err)
	}
	var seen struct {
		Pages    map[string]string
		Problems []string
	}
	if err := json.Unmarshal(output, &seen); err != nil {
		t.Fatalf("the browser says %q: %v", output, err)
	}
	for _, problem := range seen.Problems {
		t.Errorf("the browser reports %s", problem)
	}
	for _, s := range runs {
		if !strings.Contains(seen.Pages["list"], s.run) {
			t.Errorf("run %s is not in the list", s.run)
		}
		page := seen.Pages[s.run]
		l.checkShown(page, s.run, string(s.status))
		for _, step := range s.steps {
			name, kindAndStatus, _ := strings.Cut(step, " ")
			kind, status, _ := strings.Cut(kindAndStatus, " ")
			l.checkShown(page, name, strings.ReplaceAll(kind, "-", " "), status)
		}
	}
}

// checkShown looks for texts in a page, which shows some of them in capitals.
func (l *lab) checkShown(page string, texts ...string) {
	l.Helper()
	for _, text := range texts {
		if !strings.Contains(strings.ToLower(page), strings.ToLower(text)) {
			l.Errorf("%q is not on the page:\n%s", text, page)
		}
	}
}

// dashboard starts OpenWorkflow's dashboard and returns its address.
func (l *lab) dashboard(program string) string {
	l.Helper()
	listener, err := (&net.ListenConfig{}).Listen(l.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		l.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	_ = listener.Close()
	command := exec.Command("node", program) //nolint:noctx // killed at the end of the test
	command.Dir = "typescript"               // where its configuration is
	command.Env = append(os.Environ(), "OPENWORKFLOW_POSTGRES_URL="+l.url, "OPENWORKFLOW_NAMESPACE_ID="+namespaceID,
		"HOST=127.0.0.1", fmt.Sprintf("PORT=%d", port))
	process := l.start(command)

	url := fmt.Sprintf("http://127.0.0.1:%d", port)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(patience); ; <-ticker.C {
		request, err := http.NewRequestWithContext(l.Context(), http.MethodGet, url, nil)
		if err != nil {
			l.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return url
			}
		}
		select {
		case <-process.exited:
			l.Fatal("the dashboard has ended")
		default:
		}
		if time.Now().After(end) {
			l.Fatalf("the dashboard does not answer: %v", err)
		}
	}
}
