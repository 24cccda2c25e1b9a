package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestStart_CreatesAnObject(t *testing.T) {
	w := setup(t)
	got := w.run("start", "checkout", "--name", "order-1", "--input", `{"order": 1}`, "--version", "v2", "--backend", "other",
		"--idempotency-key", "k", "--labels", "team=shop", "--delay", "1h", "--deadline", "90s", "--ttl-seconds-after-finished", "60", "--suspend")
	if want := (result{out: "workflowrun.openworkflow.dev/order-1 created\n"}); got != want {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	object := w.workflowRun("order-1")
	spec := object.Spec
	if string(spec.Input.Raw) != `{"order":1}` || spec.Version != "v2" || spec.BackendRef.Name != "other" || spec.IdempotencyKey != "k" ||
		object.Labels["team"] != "shop" || spec.AvailableAt.UTC().String() != "2026-01-01 13:00:00 +0000 UTC" || *spec.TimeoutSeconds != 90 ||
		*spec.TTLSecondsAfterFinished != 60 || !*spec.Suspend {
		t.Errorf("created %+v", spec)
	}
	generated := w.run("start", "Check Out!", "-o", "name")
	if !strings.HasPrefix(generated.out, "workflowrun.openworkflow.dev/check-out-") {
		t.Errorf("without a name: %+v", generated)
	}
}

func TestStart_ReadsTheInputFromFilesAndStdin(t *testing.T) {
	w := setup(t)
	file := filepath.Join(t.TempDir(), "order.yaml")
	if err := os.WriteFile(file, []byte("order: 1001\nitems: [a, b]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, file, in, want string
	}{
		{"yaml", file, "", `{"items":["a","b"],"order":1001}`},
		{"stdin", "-", `[1, 2]`, `[1,2]`},
	} {
		if got := w.runAs(w.kubeconfig, test.in, "start", "checkout", "--name", test.name, "--input-file", test.file); got.code != codeDone {
			t.Fatalf("%s: %+v", test.name, got)
		}
		if diff := cmp.Diff(test.want, string(w.workflowRun(test.name).Spec.Input.Raw)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestStart_WithoutObjectPrintsEveryFormat(t *testing.T) {
	w := setup(t)
	start := []string{"start", "checkout", "--without-object", "--name", runSeq(1), "--input", "1", "--idempotency-key", "k"}
	if got := w.run(start...); got.out != "run.data.openworkflow.dev/"+runSeq(1)+" created\n" {
		t.Fatalf("got %+v", got)
	}
	w.exec(`UPDATE openworkflow.workflow_runs SET created_at = '2026-01-01 11:00Z', available_at = '2026-01-01 11:00Z'`)
	w.goldens("start", start...) // finds the run that exists
}

func TestStart_P3_WaitsForTheEnd(t *testing.T) {
	for _, test := range []struct {
		state v1alpha1.RunState
		code  int
		last  string
	}{
		{v1alpha1.RunCompleted, codeDone, "workflowrun.openworkflow.dev/order completed\n"},
		{v1alpha1.RunFailed, codeFailed, "workflowrun.openworkflow.dev/order failed\n"},
		{v1alpha1.RunCanceled, codeCanceled, "workflowrun.openworkflow.dev/order canceled\n"},
	} {
		t.Run(string(test.state), func(t *testing.T) {
			w := setup(t)
			next, exit := w.follow("start", "checkout", "--name", "order", "--wait", "--timeout", "5m")
			if got := next(); got != "workflowrun.openworkflow.dev/order created" {
				t.Fatal(got)
			}
			w.status("order", test.state, "over")
			if got := exit(); got.out != test.last || got.code != test.code || got.errOut != "" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestStart_FollowsARunWithoutObject(t *testing.T) {
	w := setup(t)
	next, exit := w.follow("start", "checkout", "--without-object", "--name", runSeq(1), "--follow")
	for _, want := range []string{"run.data.openworkflow.dev/" + runSeq(1) + " created", "TIME", "12:00:00   Pending"} {
		if got := next(); !strings.HasPrefix(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	w.exec(`UPDATE openworkflow.workflow_runs SET status = 'failed', finished_at = now(), error = '{"name": "CardError", "message": "secret"}'`)
	got := exit()
	if got.code != codeFailed || !strings.HasPrefix(got.out, "12:00:00   Failed (WorkflowFailed)") || !strings.Contains(got.out, "CardError") ||
		strings.Contains(got.out, "secret") || got.errOut != "" {
		t.Errorf("got %+v", got)
	}
}

func TestStart_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	large := filepath.Join(t.TempDir(), "large.json")
	if err := os.WriteFile(large, make([]byte, maxInput+1), 0o600); err != nil {
		t.Fatal(err)
	}
	w.fails(codeError, "accepts 1 arg(s), received 0", "start")
	w.fails(codeError, `--input is not JSON: a text needs quotes of its own, as in '"text"'`, "start", "x", "--input", "text")
	w.fails(codeError, "give --input or --input-file, not both", "start", "x", "--input", "1", "--input-file", "-")
	w.fails(codeError, "--input-file: open /nowhere: no such file", "start", "x", "--input-file", "/nowhere")
	w.fails(codeError, "is longer than 1 MiB, the limit of a value", "start", "x", "--input-file", large)
	w.fails(codeError, "--timeout ends a wait: give --wait or --follow, or did you mean --deadline?", "start", "x", "--timeout", "1m")
	w.fails(codeError, "--delay, --deadline and --timeout are positive durations", "start", "x", "--delay", "-1m")
	w.fails(codeError, "--deadline is at least 1s", "start", "x", "--deadline", "1ms")
	w.fails(codeError, "leave out --without-object", "start", "x", "--without-object", "--suspend")
	w.fails(codeError, `--labels "a in (b)": `, "start", "x", "--labels", "a in (b)")
	w.fails(codeError, `metadata.name: Invalid value: "Not A Name"`, "start", "x", "--name", "Not A Name")
	w.fails(codeError, "name a workflow, as its worker defines it", "start", "")
	w.fails(codeError, `Backend "none" does not exist in this namespace`, "start", "x", "--without-object", "--backend", "none")
	viewer := w.user("viewer", rule("list", "runs"))
	if got := w.runAs(viewer, "", "start", "x"); got.code != codeForbidden || !strings.Contains(got.errOut, "edit to see payloads and to change runs") {
		t.Errorf("a viewer: %+v", got)
	}
}
