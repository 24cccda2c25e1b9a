package controller

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// TestSignal_P7_SaysWhatCannotBeSent: what the API server cannot refuse.
func TestSignal_P7_SaysWhatCannotBeSent(t *testing.T) {
	w := newManagedWorld(t)
	data := func(text string) func(*sig) {
		return func(s *sig) { s.Spec.Data = &apiextensionsv1.JSON{Raw: []byte(text)} }
	}
	for name, test := range map[string]struct {
		change func(*sig)
		want   string
	}{
		"nul":   {data(`{"text":"a\u0000b"}`), "the signal cannot be stored: "},
		"large": {data(`"` + strings.Repeat("x", maxInput) + `"`), "spec.data has 1048578 bytes, the limit is 1048576: keep the data elsewhere and pass a reference to it"},
	} {
		signal := newSignal(name, test.change)
		w.create(signal)
		if message := w.awaitSignal(signal, v1alpha1.ReasonInvalidSignal); !strings.Contains(message, test.want) {
			t.Errorf("%s: message is %q, want %q", name, message, test.want)
		}
		w.wantTruths(signal, v1alpha1.ConditionStalled)
	}
	w.create(newTestRun("order-1"))
	s := w.store()
	_, attempt := w.waiting(s, "approved", "approved")
	large := newSignal("large-enough", data(`"`+strings.Repeat("x", maxCachedInput)+`"`)) // the cache leaves it out
	w.create(large)
	w.awaitSignal(large, v1alpha1.ReasonDelivered)
	if got, ok := w.received(s, attempt); !ok || len(got) != maxCachedInput+2 {
		t.Errorf("received %d bytes, %v", len(got), ok)
	}
}

func TestSignal_WaitsForItsBackend(t *testing.T) {
	w := newWorld(t)
	w.start()
	signal := newSignal("approve", sendNow)
	w.create(signal)
	if message := w.awaitSignal(signal, v1alpha1.ReasonBackendNotFound); !strings.Contains(message, `Backend "default" does not exist in this namespace`) {
		t.Errorf("message is %q", message)
	}
	w.wantTruths(signal, v1alpha1.ConditionReconciling)
	w.backend()
	w.awaitSignal(signal, v1alpha1.ReasonNoReceiver)
}

// TestSignal_P7_TheAPIServerRefuses: bad input, by the definition.
func TestSignal_P7_TheAPIServerRefuses(t *testing.T) {
	w := newWorld(t)
	approval := func(change func(*v1alpha1.ApprovalDecision)) func(*sig) {
		return func(s *sig) {
			a := &v1alpha1.ApprovalDecision{RunName: "order-1", Step: new("approve"), Digest: "d", Decision: v1alpha1.DecisionApprove}
			change(a)
			s.Spec.Signal, s.Spec.Data, s.Spec.Approval = "", nil, a
		}
	}
	target := func(t v1alpha1.SignalTarget) func(*sig) { return func(s *sig) { s.Spec.Target = &t } }
	for name, test := range map[string]struct {
		change func(*sig)
		want   string
	}{
		"nothing": {func(s *sig) { s.Spec.Signal = "" }, "give signal, or approval: one of the two"},
		"both":    {func(s *sig) { approval(func(*v1alpha1.ApprovalDecision) {})(s); s.Spec.Signal = "a" }, "give signal, or approval: one of the two"},
		"approval target": {func(s *sig) {
			approval(func(*v1alpha1.ApprovalDecision) {})(s)
			s.Spec.Target = &v1alpha1.SignalTarget{RunID: "r"}
		}, "an approval has no target: its run and step are in approval"},
		"approval run":       {approval(func(a *v1alpha1.ApprovalDecision) { a.RunID = "r" }), "give runName, for a WorkflowRun of this namespace, or runID"},
		"approval no run":    {approval(func(a *v1alpha1.ApprovalDecision) { a.RunName = "" }), "give runName, for a WorkflowRun of this namespace, or runID"},
		"approval step":      {approval(func(a *v1alpha1.ApprovalDecision) { a.Step = nil }), "spec.approval.step: Required value"},
		"approval digest":    {approval(func(a *v1alpha1.ApprovalDecision) { a.Digest = "" }), "spec.approval.digest: Required value"},
		"decision":           {approval(func(a *v1alpha1.ApprovalDecision) { a.Decision = "Perhaps" }), `Unsupported value: "Perhaps"`},
		"long approval run":  {approval(func(a *v1alpha1.ApprovalDecision) { a.RunName = strings.Repeat("x", 254) }), "spec.approval.runName: Too long"},
		"long approval id":   {approval(func(a *v1alpha1.ApprovalDecision) { a.RunName, a.RunID = "", strings.Repeat("x", 254) }), "spec.approval.runID: Too long"},
		"long approval step": {approval(func(a *v1alpha1.ApprovalDecision) { a.Step = new(strings.Repeat("x", 1025)) }), "spec.approval.step: Too long"},
		"long digest":        {approval(func(a *v1alpha1.ApprovalDecision) { a.Digest = strings.Repeat("x", 129) }), "spec.approval.digest: Too long"},
		"no decision":        {approval(func(a *v1alpha1.ApprovalDecision) { a.Decision = "" }), "spec.approval.decision: Required value"},
		"comment":            {approval(func(a *v1alpha1.ApprovalDecision) { a.Comment = strings.Repeat("x", 1025) }), "spec.approval.comment: Too long"},
		"long signal":        {func(s *sig) { s.Spec.Signal = strings.Repeat("x", 513) }, "spec.signal: Too long"},
		"long key":           {func(s *sig) { s.Spec.IdempotencyKey = strings.Repeat("x", 513) }, "spec.idempotencyKey: Too long"},
		"delivery":           {func(s *sig) { s.Spec.Delivery = "Later" }, `spec.delivery: Unsupported value: "Later"`},
		"expiry of now":      {func(s *sig) { sendNow(s); s.Spec.ExpirationSeconds = new(int64(60)) }, "expirationSeconds is for delivery UntilReceived"},
		"no expiry":          {func(s *sig) { s.Spec.ExpirationSeconds = new(int64(0)) }, "spec.expirationSeconds: Invalid value"},
		"far expiry":         {func(s *sig) { s.Spec.ExpirationSeconds = new(int64(31622401)) }, "spec.expirationSeconds: Invalid value"},
		"ttl":                {func(s *sig) { s.Spec.TTLSecondsAfterFinished = new(int32(-1)) }, "spec.ttlSecondsAfterFinished: Invalid value"},
		"two targets":        {target(v1alpha1.SignalTarget{RunName: "a", RunID: "b"}), "give runName, for a WorkflowRun of this namespace, or runID"},
		"step without run":   {target(v1alpha1.SignalTarget{Step: new("a")}), "give runName, for a WorkflowRun of this namespace, or runID"},
		"long run":           {target(v1alpha1.SignalTarget{RunName: strings.Repeat("x", 254)}), "spec.target.runName: Too long"},
		"long run id":        {target(v1alpha1.SignalTarget{RunID: strings.Repeat("x", 254)}), "spec.target.runID: Too long"},
		"long step":          {target(v1alpha1.SignalTarget{RunName: "a", Step: new(strings.Repeat("x", 1025))}), "spec.target.step: Too long"},
	} {
		signal := newSignal("bad", test.change)
		signal.Namespace = w.Namespace
		if err := w.Create(t.Context(), signal); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}

	for path, text := range map[string]string{
		"signal": `{"signal": ""}`, "idempotencyKey": `{"signal": "a", "idempotencyKey": ""}`, "backendRef.name": `{"signal": "a", "backendRef": {"name": ""}}`,
		"target": `{"signal": "a", "target": {}}`, "target.runName": `{"signal": "a", "target": {"runName": ""}}`, "target.runID": `{"signal": "a", "target": {"runID": ""}}`,
		"approval.digest":  `{"approval": {"runID": "r", "step": "s", "decision": "Deny", "digest": ""}}`,
		"approval.comment": `{"approval": {"runID": "r", "step": "s", "decision": "Deny", "digest": "d", "comment": ""}}`,
		"approval.runName": `{"approval": {"runName": "", "step": "s", "decision": "Deny", "digest": "d"}}`,
	} {
		var spec map[string]any
		if err := json.Unmarshal([]byte(text), &spec); err != nil {
			t.Fatal(err)
		}
		empty := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "WorkflowSignal", "metadata": map[string]any{"name": "empty", "namespace": w.Namespace}, "spec": spec,
		}}
		want := "spec." + path + ": Invalid value"
		if err := w.Create(t.Context(), empty); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "should ") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	awaitRefusal(t, "an approval has no data: its decision is in spec.approval", func() error {
		return w.Create(context.Background(), newSignal("bad", approval(func(*v1alpha1.ApprovalDecision) {}), func(s *sig) {
			s.Namespace, s.Spec.Data = w.Namespace, &apiextensionsv1.JSON{Raw: []byte("1")}
		}))
	})
	signal := newSignal("approve", func(s *sig) { s.Spec.Target = &v1alpha1.SignalTarget{RunName: "order-1"} })
	w.create(signal)
	for name, change := range map[string]func(*sig){
		"signal": func(s *sig) { s.Spec.Signal = "other" }, "key": func(s *sig) { s.Spec.IdempotencyKey = "k" },
		"target": func(s *sig) { s.Spec.Target.RunName = "order-2" }, "no target": func(s *sig) { s.Spec.Target = nil },
		"delivery": sendNow, "expiry": func(s *sig) { s.Spec.ExpirationSeconds = new(int64(60)) },
		"backend": func(s *sig) { s.Spec.BackendRef.Name = "other" },
	} {
		changed := signal.DeepCopy()
		change(changed)
		if err := w.Patch(t.Context(), changed, client.MergeFrom(signal)); err == nil || !strings.Contains(err.Error(), "a WorkflowSignal is immutable but for ttlSecondsAfterFinished") {
			t.Errorf("a change of the %s: %v", name, err)
		}
	}
	awaitRefusal(t, "spec.data is immutable: delete the WorkflowSignal and create another", func() error {
		changed := signal.DeepCopy()
		changed.Spec.Data = nil
		return w.Patch(context.Background(), changed, client.MergeFrom(signal))
	})
	modify(w, signal, func(s *sig) { s.Spec.TTLSecondsAfterFinished = new(int32(60)) })
}
