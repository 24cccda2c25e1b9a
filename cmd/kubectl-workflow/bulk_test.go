package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"

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
		"--dry-run":                  "1 run would be retried, 600 in a minute at most.\nThe first of them:\n  " + runSeq(1) + "\n",
		"--dry-run --state canceled": "0 runs would be retried, 600 in a minute at most.\n",
		"--dry-run --state Failed,canceled --workflow checkout": "1 run would be retried",
		"--dry-run --workflow other":                            "0 runs",
		"--dry-run --version 7":                                 "0 runs",
		"--dry-run --error-name CardError --rate 60":            "1 run would be retried, 60 in a minute at most.",
		"--dry-run --since 59m30s":                              "1 run",
		"--dry-run --since 58m":                                 "0 runs",
	} {
		if got := w.run(append([]string{"bulk", "retry"}, strings.Fields(args)...)...); got.code != codeDone || !strings.HasPrefix(got.out, want) {
			t.Errorf("%s: exit code %d, %q%s, want %q", args, got.code, got.out, got.errOut, want)
		}
	}
	if got := w.run("bulk", "list"); !strings.HasPrefix(got.errOut, "No bulk retries found in namespace") {
		t.Errorf("a dry run has stored something: %s", got.out)
	}
	got := w.run("bulk", "retry", "--name", "all", "--step", "charge", "--children", "Restart", "--max-runs", "3")
	if got.out != "Bulk retry all: 1 run to retry, 600 in a minute at most.\n" {
		t.Errorf("created: %q, %s", got.out, got.errOut)
	}
	if got := w.run("bulk", "retry", "-o", "name"); !strings.HasPrefix(got.out, "bulkretry.data.openworkflow.dev/retry-") {
		t.Errorf("created without a name: %q, %s", got.out, got.errOut)
	}
}

func TestBulk_ListPrintsEveryFormat(t *testing.T) {
	w := bulkSetup(t)
	w.run("bulk", "retry", "--name", "outage", "--workflow", "checkout", "--since", "24h", "--rate", "300")
	w.exec(`UPDATE openworkflow.operator_bulk_retries SET started = 41, skipped = 1, failed = 2, matched = 20000, more = true,
		failures = '[{"runID": "r", "message": "invalid fork: run r has no step \"charge\""}]'`)
	w.fix("outage")
	w.goldens("bulk_list", "bulk", "list", "outage")
}

func TestBulk_SuspendResumeCancel(t *testing.T) {
	w := bulkSetup(t)
	w.run("bulk", "retry", "--name", "all")
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
		if got := w.run("bulk", "retry", "--wait", "--name", name); got.code != test.code || got.errOut != test.errOut {
			t.Errorf("exit code %d, %q, want %d, %q", got.code, got.errOut, test.code, test.errOut)
		}
	}
}

func TestBulk_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := bulkSetup(t)
	w.fails(codeError, `--state "done": use failed, canceled or failed,canceled`, "bulk", "retry", "--state", "done")
	w.fails(codeError, "--since -1h0m0s: give a positive duration, such as 24h", "bulk", "retry", "--since", "-1h")
	w.fails(codeError, "--rate 6001: give a number of runs in a minute, from 1 to 6000", "bulk", "retry", "--rate", "6001")
	w.fails(codeError, "--max-runs -1: give 0 for all runs, or a positive number", "bulk", "retry", "--max-runs", "-1")
	w.fails(codeError, "--step and --from-start: give one of them", "bulk", "retry", "--step", "a", "--from-start")
	w.fails(codeError, `--children "Eat": use Keep or Restart`, "bulk", "retry", "--children", "Eat")
	w.fails(codeError, "--dry-run starts nothing to wait for: leave out --wait", "bulk", "retry", "--dry-run", "--wait")
	w.fails(codeError, `metadata.name: Invalid value: "A"`, "bulk", "retry", "--name", "A")
	w.fails(codeError, `Backend "nope" does not exist in this namespace`, "bulk", "retry", "--backend", "nope")
	w.fails(codeError, "accepts 1 arg(s), received 0", "bulk", "cancel")
	w.fails(codeNotFound, `"nope"`, "bulk", "cancel", "nope")
	w.kubeconfig = w.user("viewer", rbacv1.PolicyRule{APIGroups: []string{datav1alpha1.GroupVersion.Group}, Resources: []string{"bulkretries"}, Verbs: []string{"get", "list"}})
	w.fails(codeForbidden, "cannot create resource", "bulk", "retry")
}

// A verb for one run, with flags of its own, retries many if its flags select them.
func TestBulk_ExtendsAVerbForOneRun(t *testing.T) {
	w := bulkSetup(t)
	retry := func(args ...string) (out string, named []string, err error) {
		var printed bytes.Buffer
		f := &factory{
			IOStreams: genericiooptions.IOStreams{Out: &printed, ErrOut: &printed}, config: genericclioptions.NewConfigFlags(true), now: func() time.Time { return noon },
			reach: func(_ context.Context, user *rest.Config, _ string) (*rest.Config, error) {
				return cluster.DataAs(user), nil
			},
		}
		cmd := &cobra.Command{Use: "retry RUN", Args: cobra.ExactArgs(1), SilenceErrors: true, SilenceUsage: true}
		cmd.RunE = func(_ *cobra.Command, args []string) error { named = args; return nil }
		var name, children string
		cmd.Flags().StringVar(&name, "name", "", "")
		cmd.Flags().StringVar(&children, "children", "Keep", "")
		newPrinter("created").addFlags(cmd)
		addBulk(f, cmd)
		root := newRoot(f)
		root.AddCommand(cmd)
		root.SetArgs(append([]string{"--kubeconfig", w.kubeconfig, "-n", w.Namespace, "retry"}, args...))
		err = root.ExecuteContext(t.Context())
		return printed.String(), named, err
	}
	if out, named, err := retry("--state", "failed", "--since", "24h", "--name", "all", "--children", "Restart"); err != nil || named != nil || !strings.HasPrefix(out, "Bulk retry all: 1 run to retry") {
		t.Errorf("many: %q, %q, %v", out, named, err)
	}
	if out, _, err := retry("--state", "failed", "-o", "name", "--dry-run"); err != nil || !strings.HasPrefix(out, "bulkretry.data.openworkflow.dev/retry-") {
		t.Errorf("another format: %q, %v", out, err)
	}
	if got := w.run("bulk", "list", "all", "-o", "jsonpath={.items[0].spec.children}"); got.out != "Restart" {
		t.Errorf("children are %q: %s", got.out, got.errOut)
	}
	if _, named, err := retry("order-1001"); err != nil || len(named) != 1 {
		t.Errorf("one: %q, %v", named, err)
	}
	for want, args := range map[string][]string{
		"accepts 1 arg(s), received 0":                   nil,
		"name a run, or select runs by --state, --since": {"order-1001", "--state", "failed"},
	} {
		if _, _, err := retry(args...); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %s", args, err, want)
		}
	}
}
