package main

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// bulkSetup is a world with the history, a user who may change bulk retries, and times that are
// fixed.
func bulkSetup(t *testing.T) *world {
	t.Helper()
	w := setup(t)
	w.kubeconfig = w.user("bulk", append(editorRules, rbacv1.PolicyRule{
		APIGroups: []string{datav1alpha1.GroupVersion.Group}, Resources: []string{"bulkretries"}, Verbs: []string{"patch", "delete"},
	})...)
	w.history()
	w.exec(`UPDATE openworkflow.workflow_runs SET updated_at = finished_at WHERE finished_at IS NOT NULL`)
	return w
}

// fix gives a request a fixed uid and age.
func (w *world) fix(name string) {
	w.t.Helper()
	w.exec(`UPDATE openworkflow.operator_bulk_retries SET uid = '11111111-2222-3333-4444-555555555555', created_at = '2026-01-01 11:58Z',
		finished_at = CASE WHEN finished_at IS NOT NULL THEN timestamptz '2026-01-01 11:59Z' END WHERE name = $1`, name)
}

func TestBulk_RetrySaysWhatItFinds(t *testing.T) {
	w := bulkSetup(t)
	for args, want := range map[string]string{
		"--dry-run --state failed":                              "1 run would be retried, 600 in a minute at most.\nThe first of them:\n  " + runSeq(1) + "\n",
		"--dry-run --state canceled":                            "0 runs would be retried, 600 in a minute at most.\n",
		"--dry-run --state Failed,canceled --workflow checkout": "1 run would be retried",
		"--dry-run --workflow other":                            "0 runs",
		"--dry-run --version 7":                                 "0 runs",
		"--dry-run --error-name CardError --rate 60":            "1 run would be retried, 60 in a minute at most.",
		"--dry-run --since 59m30s":                              "1 run",
		"--dry-run --since 58m":                                 "0 runs",
	} {
		if got := w.run(append([]string{"retry"}, strings.Fields(args)...)...); got.code != codeDone || !strings.HasPrefix(got.out, want) {
			t.Errorf("%s: exit code %d, %q%s, want %q", args, got.code, got.out, got.errOut, want)
		}
	}
	if got := w.run("bulk", "list"); !strings.HasPrefix(got.errOut, "No bulk retries found in namespace") {
		t.Errorf("a dry run has stored something: %s", got.out)
	}
	got := w.run("retry", "--state", "failed", "--name", "all", "--step", "charge", "--children", "Restart", "--max-runs", "3")
	if got.out != "Bulk retry all: 1 run to retry, 600 in a minute at most.\n" {
		t.Errorf("created: %q, %s", got.out, got.errOut)
	}
	if got := w.run("retry", "--state", "failed", "-o", "name"); !strings.HasPrefix(got.out, "bulkretry.data.openworkflow.dev/retry-") {
		t.Errorf("created without a name: %q, %s", got.out, got.errOut)
	}
}

func TestBulk_ListPrintsEveryFormat(t *testing.T) {
	w := bulkSetup(t)
	w.run("retry", "--state", "failed", "--name", "outage", "--workflow", "checkout", "--since", "24h", "--rate", "300")
	w.exec(`UPDATE openworkflow.operator_bulk_retries SET started = 41, skipped = 1, failed = 2, matched = 20000, more = true,
		failures = '[{"runID": "r", "message": "invalid fork: run r has no step \"charge\""}]'`)
	w.fix("outage")
	w.goldens("bulk_list", "bulk", "list", "outage")
}

func TestBulk_SuspendResumeCancel(t *testing.T) {
	w := bulkSetup(t)
	w.run("retry", "--state", "failed", "--name", "all")
	for _, step := range []struct{ verb, out, state string }{
		{"suspend", "suspended", "Suspended"}, {"resume", "resumed", "Running"}, {"cancel", "canceled", "Canceled"},
	} {
		if got := w.run("bulk", step.verb, "all"); got.out != "bulkretry.data.openworkflow.dev/all "+step.out+"\n" {
			t.Errorf("%s: %q, %s", step.verb, got.out, got.errOut)
		}
		if got := w.run("bulk", "list", "all", "--no-headers"); !strings.Contains(got.out, step.state) {
			t.Errorf("after %s: %s%s", step.verb, got.out, got.errOut)
		}
	}
	w.fails(codeError, "the bulk retry has ended", "bulk", "suspend", "all")
}

// TestBulk_WaitShowsTheProgress: the manager's part is done by hand.
func TestBulk_WaitShowsTheProgress(t *testing.T) {
	w := bulkSetup(t)
	for name, test := range map[string]struct {
		state, errOut string
		code          int
	}{
		"done":  {"completed", "Completed: 1 started, 0 skipped, 1 failed\n  run r: why\n", codeDone},
		"ended": {"canceled", "Canceled: 1 started, 0 skipped, 1 failed\n  run r: why\n", codeCanceled},
	} {
		w.exec(`CREATE OR REPLACE FUNCTION end_at_once() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			NEW.state = '` + test.state + `'; NEW.started = 1; NEW.failed = 1; NEW.failures = '[{"runID": "r", "message": "why"}]'; RETURN NEW; END $$`)
		w.exec(`CREATE OR REPLACE TRIGGER end_at_once BEFORE INSERT ON openworkflow.operator_bulk_retries FOR EACH ROW EXECUTE FUNCTION end_at_once()`)
		if got := w.run("retry", "--state", "failed", "--wait", "--name", name); got.code != test.code || got.errOut != test.errOut {
			t.Errorf("exit code %d, %q, want %d, %q", got.code, got.errOut, test.code, test.errOut)
		}
	}
}

func TestBulk_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := bulkSetup(t)
	w.fails(codeError, `--state "done": use failed, canceled or failed,canceled`, "retry", "--state", "done")
	w.fails(codeError, "--since -1h0m0s: give a positive duration, such as 24h", "retry", "--state", "failed", "--since", "-1h")
	w.fails(codeError, "--rate 6001: give a number of runs in a minute, from 1 to 6000", "retry", "--state", "failed", "--rate", "6001")
	w.fails(codeError, "--max-runs -1: give 0 for all runs, or a positive number", "retry", "--state", "failed", "--max-runs", "-1")
	w.fails(codeError, "--step and --from-start: give one of them", "retry", "--state", "failed", "--step", "a", "--from-start")
	w.fails(codeError, `--children "Eat": use Keep or Restart`, "retry", "--state", "failed", "--children", "Eat")
	w.fails(codeError, "--dry-run starts nothing to wait for: leave out --wait", "retry", "--state", "failed", "--dry-run", "--wait")
	w.fails(codeError, `metadata.name: Invalid value: "A"`, "retry", "--state", "failed", "--name", "A")
	w.fails(codeError, `Backend "nope" does not exist in this namespace`, "retry", "--state", "failed", "--backend", "nope")
	w.fails(codeError, "accepts 1 arg(s), received 0", "bulk", "cancel")
	w.fails(codeNotFound, `"nope"`, "bulk", "cancel", "nope")
	w.kubeconfig = w.user("viewer", rbacv1.PolicyRule{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Resources: []string{"bulkretries"}, Verbs: []string{"get", "list"}})
	w.fails(codeForbidden, "cannot create resource", "retry", "--state", "failed")
}

// The verb for one run retries many if its flags select them.
func TestRetry_P7_IsOfOneRunOrOfMany(t *testing.T) {
	w := bulkSetup(t)
	if got := w.run("retry", runSeq(1), "-o", "name"); got.code != codeDone || !strings.HasPrefix(got.out, "run.data.openworkflow.dev/") {
		t.Errorf("one: %q, %s", got.out, got.errOut)
	}
	for args, want := range map[string]string{
		"":                                 "name a run, or select runs by --state, --since, --workflow, --version, --error-name",
		"order-1001 --state failed":        "name a run, or select runs by --state: not both",
		"order-1001 --version=":            "name a run, or select runs by --version: not both",
		"order-1001 --step charge":         "--step goes with flags that select runs: use kubectl workflow fork or rerun for one run",
		"order-1001 --from-start":          "--from-start goes with flags that select runs: use kubectl workflow fork or rerun for one",
		"order-1001 --rate 3":              "--rate goes with flags that select runs, not with the name of one",
		"--state failed --step-output a=1": "--step-output goes with the name of a run, not with flags that select runs",
		"--since 1h --without-object":      "--without-object goes with the name of a run, not with flags that select runs",
		"--dry-run":                        "name a run, or select runs by --state, --since, --workflow, --version, --error-name",
		"a b":                              "accepts at most 1 arg(s), received 2",
		"order-1001 --children Eat":        `--children "Eat": use Keep or Restart`,
		"--state done":                     "--state \"done\": use failed, canceled or failed,canceled",
	} {
		w.fails(codeError, want, append([]string{"retry"}, strings.Fields(args)...)...)
	}
}
