package worker

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/internal/dryrun"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/internal/workerenv"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// ledger is a file to which the steps of a child process write, so that a dry run cannot call one
// unseen.
const ledgerEnv = "TEST_LEDGER"

func ledger(line string) {
	f, err := os.OpenFile(os.Getenv(ledgerEnv), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	_, _ = f.WriteString(line + "\n")
	_ = f.Close()
}

// checkout is a workflow of which two builds exist. The first fails at its third step.
func checkout(charge, ship string) *workflow.Workflow[string, string] {
	run := func(ctx context.Context, name string, fail bool) error {
		_, err := step.Run(ctx, name, func(context.Context) (string, error) {
			ledger(name)
			if fail {
				return "", step.NonRetryable(os.ErrPermission)
			}
			return name, nil
		})
		return err
	}
	return workflow.Define("checkout", func(ctx context.Context, _ string) (string, error) {
		for _, name := range []string{"reserve", charge} {
			if err := run(ctx, name, false); err != nil {
				return "", err
			}
		}
		return "done", run(ctx, ship, true)
	})
}

// MainProcess is this program as the worker of a test, in a process of its own.
func MainProcess(build string) {
	switch build {
	case "same":
		Main(checkout("charge", "ship"))
	case "renamed":
		Main(checkout("charge-card", "ship"))
	case "another":
		Main(echo)
	}
}

// process runs this program as a worker, and returns what it said and its result.
func process(t *testing.T, build, url, request string, env ...string) (output string, result dryrun.Result, err error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "result")
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), "TEST_MAIN="+build, workerenv.PostgresURL+"="+url, workerenv.DryRun+"="+request, workerenv.DryRunResult+"="+file,
		workerenv.NamespaceID+"=none", workerenv.DryRunNamespaceID+"=default"), env...)
	said, err := cmd.CombinedOutput()
	if raw, readErr := os.ReadFile(file); readErr == nil {
		if decodeErr := json.Unmarshal(raw, &result); decodeErr != nil {
			t.Errorf("the result is %s: %v", raw, decodeErr)
		}
	}
	return string(said), result, err
}

// snapshot is everything in the tables.
func snapshot(t *testing.T, url string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var text string
	if err := conn.QueryRow(t.Context(), `SELECT concat(
		(SELECT json_agg(r ORDER BY id) FROM openworkflow.workflow_runs r), (SELECT json_agg(a ORDER BY id) FROM openworkflow.step_attempts a),
		(SELECT json_agg(w.pod_uid) FROM openworkflow.operator_workers w WHERE pod_uid = 'dry'))`).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// TestMain_P1_ADryRunSaysWhatWouldRunAndRunsNothing: the worker's program, in a process of its own
// and with a login that may only read, replays a run of an earlier build.
func TestMain_P1_ADryRunSaysWhatWouldRunAndRunsNothing(t *testing.T) {
	config, c := podConfig(t)
	t.Setenv(ledgerEnv, filepath.Join(t.TempDir(), "ledger"))
	startWorker(t, func(ctx context.Context) error { return Run(ctx, config, checkout("charge", "ship")) })
	started, err := client.Start(t.Context(), c, checkout("charge", "ship"), "order")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := started.Result(t.Context()); err == nil {
		t.Fatal("the run has not failed")
	}
	login, reader := testpg.Login(t, config.PostgresURL, "reader")
	conn, err := pgx.Connect(t.Context(), config.PostgresURL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), testpg.Grants(t, "../docs/security.md", "reader", login)); err != nil {
		t.Fatal(err)
	}
	before, executed := snapshot(t, config.PostgresURL), readLedger(t)
	id := started.ID()
	next := []dryrun.Step{{Name: "ship", Kind: "function"}}
	for name, test := range map[string]struct {
		build, request string
		want           dryrun.Result
	}{
		"the same build": {"same", `,"lastFailed":true`, dryrun.Result{Kept: 2, LastKept: []string{"reserve", "charge"}, Next: next}},
		"from a step":    {"same", `,"step":"charge"`, dryrun.Result{Kept: 1, LastKept: []string{"reserve"}, Next: []dryrun.Step{{Name: "charge", Kind: "function"}}}},
		"from the start": {"same", ``, dryrun.Result{Next: []dryrun.Step{{Name: "reserve", Kind: "function"}}}},
		"with an output": {"same", `,"lastFailed":true,"outputs":{"ship":"by hand"}`, dryrun.Result{Kept: 3, LastKept: []string{"reserve", "charge", "ship"}, Ended: true}},
		"a renamed step": {"renamed", `,"lastFailed":true`, dryrun.Result{
			Kept: 1, LastKept: []string{"reserve"}, Next: []dryrun.Step{{Name: "charge-card", Kind: "function"}}, NotAsked: []string{"charge"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			said, got, err := process(t, test.build, reader, `{"runID":"`+id+`"`+test.request+`}`, workerenv.PodUID+"=dry")
			test.want.RunID, test.want.Workflow = id, "checkout"
			if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
				t.Errorf("result (-want +got):\n%s%v: %s", diff, err, said)
			}
		})
	}
	if diff := cmp.Diff(before, snapshot(t, config.PostgresURL)); diff != "" {
		t.Errorf("rows changed:\n%s", diff)
	}
	if now := readLedger(t); now != executed {
		t.Errorf("steps were executed: %s", strings.TrimPrefix(now, executed))
	}
}

func readLedger(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile(os.Getenv(ledgerEnv))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestMain_P7_ADryRunSaysWhyThereIsNone(t *testing.T) {
	config, c := podConfig(t)
	started, err := client.Start(t.Context(), c, checkout("charge", "ship"), "order")
	if err != nil {
		t.Fatal(err)
	}
	id := started.ID()
	for name, test := range map[string]struct{ build, request, problem, log string }{
		"no request": {"same", `{"runID":7}`, "", "the request is not one of a dry run"},
		"no run":     {"same", `{"runID":"nope"}`, "run nope: not found", "run nope: not found"},
		"open":       {"same", `{"runID":"` + id + `"}`, "run " + id + " is pending: run has not ended", "run has not ended"},
		"not served": {"another", `{"runID":"` + id + `"}`, `no dry run: this image has no workflow "checkout", version ""`, "this image has no workflow"},
	} {
		t.Run(name, func(t *testing.T) {
			said, got, err := process(t, test.build, config.PostgresURL, test.request)
			if err == nil || got.Problem != test.problem || !strings.Contains(said, test.log) {
				t.Errorf("exit %v, problem %q, want %q; log: %s", err, got.Problem, test.problem, said)
			}
		})
	}
}
