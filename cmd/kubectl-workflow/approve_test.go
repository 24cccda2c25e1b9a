package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// asks makes run 3 of the history wait for an approval of each of the steps.
func (w *world) asks(names ...string) {
	w.t.Helper()
	for i, name := range names {
		text, digest, err := openworkflow.ApprovalRequest{
			RunID: runSeq(3), Step: name, Prompt: "Release 1.2.0?", Required: 2,
			Details:   json.RawMessage(`{"version": "1.2.0", "changes": ["one", "two"]}`),
			Approvers: openworkflow.Approvers{Users: []string{"ann"}, Groups: []string{"ops"}},
		}.Canonical()
		if err != nil {
			w.t.Fatal(err)
		}
		w.steps(3, []step{{id: "ask-" + name, name: name, kind: "signal-wait", status: "running"}})
		w.exec(`INSERT INTO openworkflow.operator_approvals
			(namespace_id, run_id, step_name, step_attempt_id, digest, request, on_expiry, expires_at, state, decisions, created_at)
		VALUES ($1, $2, $3, 'ask-' || $3::text, $4, $5, 'Deny', timestamptz '2099-01-01', 'Open',
			'[{"user": "eve", "decision": "Approve", "comment": "fine", "at": "2026-01-01T11:30:00Z", "key": "k"}]',
			timestamptz '2026-01-01 11:10Z' + $6 * interval '1 min')`, w.Namespace, runSeq(3), name, digest, text, i)
	}
}

func TestInbox_PrintsEveryFormat(t *testing.T) {
	w := setup(t)
	w.history()
	w.asks("release", "announce")
	w.goldens("inbox", "inbox")
	if got := w.run("inbox", runSeq(3)); got.out != w.run("inbox").out || got.code != codeDone {
		t.Errorf("of the run: %+v", got)
	}
}

func TestInbox_SaysWhenNothingIsAsked(t *testing.T) {
	w := setup(t)
	w.history()
	if got := w.run("inbox"); got.out != "" || got.errOut != "No approvals are open in namespace "+w.Namespace+".\n" {
		t.Errorf("%+v", got)
	}
	if got := w.run("inbox", runSeq(2)); got.errOut != "Run "+runSeq(2)+" has asked for no approval.\n" {
		t.Errorf("%+v", got)
	}
}

// signals returns the WorkflowSignals of the namespace.
func (w *world) signals() []v1alpha1.WorkflowSignal {
	w.t.Helper()
	var list v1alpha1.WorkflowSignalList
	if err := cluster.Admin.List(w.t.Context(), &list, client.InNamespace(w.Namespace)); err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

func TestApprove_CreatesASignalWithTheDigest(t *testing.T) {
	for verb, decision := range map[string]v1alpha1.DecisionKind{"approve": v1alpha1.DecisionApprove, "deny": v1alpha1.DecisionDeny} {
		t.Run(verb, func(t *testing.T) {
			w := setup(t)
			w.history()
			w.asks("release")
			got := w.run(verb, runSeq(3), "--comment", "as agreed", "--timeout", "0")
			signals := w.signals()
			if len(signals) != 1 {
				t.Fatalf("%d signals: %+v", len(signals), got)
			}
			a := signals[0].Spec.Approval
			if a == nil || a.RunID != runSeq(3) || *a.Step != "release" || a.Decision != decision || a.Comment != "as agreed" || len(a.Digest) != 64 {
				t.Errorf("approval is %+v", a)
			}
			if by := signals[0].Annotations[v1alpha1.AnnotationCreatedBy]; by != `{"username":"editor-`+w.Namespace+`","groups":["system:authenticated"]}` {
				t.Errorf("created by %s", by)
			}
			w.golden(verb, strings.ReplaceAll(got.out+got.errOut, signals[0].Name, "run-"+verb+"-xxxxx"))
		})
	}
}

func TestApprove_PrintsAFile(t *testing.T) {
	w := setup(t)
	w.history()
	w.asks("release", "announce")
	name := func(args ...string) string {
		got := w.run(append(args, runSeq(3), "--step", "release", "--dry-run", "-o", "jsonpath={.metadata.name} {.spec.idempotencyKey}")...)
		name, key, _ := strings.Cut(got.out, " ")
		if name == "" || key != name {
			t.Fatalf("the name is %q and the key %q: %s", name, key, got.errOut)
		}
		return name
	}
	mine := name("approve")
	for _, format := range []string{"yaml", "json"} {
		got := w.run("approve", runSeq(3), "--step", "release", "--dry-run", "-o", format)
		w.golden("approve_file_"+format, strings.ReplaceAll(got.out, mine, "run-approve-xxxxxxxxxx"))
	}
	if again := name("approve", "--comment", "as agreed"); again != mine {
		t.Errorf("the same decision is %s and %s", mine, again)
	}
	other := w.user("other", editorRules...)
	for _, differs := range []string{name("deny"), name("approve", "--kubeconfig", other)} {
		if differs == mine {
			t.Errorf("another decision is also %s", mine)
		}
	}
	if got := w.run("deny", runSeq(3), "--step", "release", "--dry-run"); !strings.HasSuffix(got.out, " denied (dry run)\n") {
		t.Errorf("without a format: %+v", got)
	}
	if signals := w.signals(); len(signals) != 0 {
		t.Errorf("created %+v", signals)
	}
}

// The manager answers while the command waits: the test takes its place.
func TestApprove_WaitsForTheManager(t *testing.T) {
	for name, test := range map[string]struct {
		status  metav1.ConditionStatus
		code    int
		message string
	}{
		"taken":   {metav1.ConditionTrue, codeDone, "approved"},
		"refused": {metav1.ConditionFalse, codeError, `the decision was refused: "ann" is no approver`},
	} {
		t.Run(name, func(t *testing.T) {
			w := setup(t)
			w.history()
			w.asks("release")
			answered := make(chan result, 1)
			go func() { answered <- w.run("approve", runSeq(3), "--timeout", "60s") }()
			signal := w.awaitSignal()
			now := metav1.Now()
			signal.Status.FinishedAt = &now
			signal.Status.Conditions = []metav1.Condition{{
				Type: v1alpha1.ConditionDelivered, Status: test.status, Reason: "Why", Message: `"ann" is no approver`, LastTransitionTime: now,
			}}
			if err := cluster.Admin.Status().Update(t.Context(), signal); err != nil {
				t.Fatal(err)
			}
			if got := <-answered; got.code != test.code || !strings.Contains(got.out+got.errOut, test.message) {
				t.Errorf("%+v, want %d and %q", got, test.code, test.message)
			}
		})
	}
}

// awaitSignal returns the signal that a command has created.
func (w *world) awaitSignal() *v1alpha1.WorkflowSignal {
	w.t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if signals := w.signals(); len(signals) > 0 {
			return &signals[0]
		}
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatal("no signal was created")
		}
	}
}

// A run may have asked for more approvals than a page of the data API has.
func TestApprove_FindsTheOpenOneOfMany(t *testing.T) {
	w := setup(t)
	w.history()
	w.asks("first")
	w.exec(`UPDATE openworkflow.operator_approvals SET state = 'Approved'`)
	w.exec(`INSERT INTO openworkflow.operator_approvals
		(namespace_id, run_id, step_name, step_attempt_id, digest, request, on_expiry, expires_at, state, decisions, created_at)
	SELECT namespace_id, run_id, 'step-' || i, step_attempt_id, digest, request, on_expiry, expires_at, CASE WHEN i < 101 THEN state ELSE 'Open' END, '[]',
		created_at + i * interval '1 s'
	FROM openworkflow.operator_approvals, generate_series(2, 101) i`)
	if got := w.run("approve", runSeq(3), "--dry-run", "-o", "yaml"); got.code != codeDone || !strings.Contains(got.out, "step: step-101\n") {
		t.Errorf("%+v", got)
	}
	if got := w.run("inbox", runSeq(3)); strings.Count(got.out, "\n") != 102 {
		t.Errorf("the inbox has %d lines", strings.Count(got.out, "\n"))
	}
}

func TestApprove_P7_BadInputSaysWhatIsWrong(t *testing.T) {
	w := setup(t)
	w.history()
	w.fails(codeError, "accepts 1 arg(s), received 0", "approve")
	w.fails(codeError, "run "+runSeq(3)+" asks for no approval now: see kubectl workflow why "+runSeq(3), "approve", runSeq(3))
	w.asks("release", "announce")
	w.fails(codeError, `asks for 2 approvals: name one by --step: "release", "announce"`, "deny", runSeq(3))
	w.fails(codeError, `step "relaese" of run `+runSeq(3)+` asks for no approval: see kubectl workflow inbox `+runSeq(3), "approve", runSeq(3), "--step", "relaese")
	w.fails(codeError, `asks for something else now, with digest`, "approve", runSeq(3), "--step", "release", "--digest", "0000")
	w.fails(codeError, "--comment has 1025 bytes, more than 1024", "approve", runSeq(3), "--comment", strings.Repeat("x", 1025))
	w.fails(codeError, "--timeout -1s: give a positive duration, such as 30s, or 0", "approve", runSeq(3), "--timeout", "-1s")
	w.fails(codeNotFound, `there is no WorkflowRun and no run "order-1" in this namespace`, "approve", "order-1")
	w.exec(`UPDATE openworkflow.operator_approvals SET state = 'Denied' WHERE step_name = 'release'`)
	w.fails(codeError, `step "release" of run `+runSeq(3)+` has been decided: Denied by eve`, "approve", runSeq(3), "--step", "release")
}
