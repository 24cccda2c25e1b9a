package controller

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/crdtest"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

var update = flag.Bool("update", false, "write the golden files")

// statesFile has an object of each kind in each state, a line of JSON each. test/argocd compares
// what Flux and Argo CD say about them.
const statesFile = "testdata/states.jsonl"

// objectState is an object in a state.
type objectState struct {
	Kind string `json:"kind"`
	// State is a short name: the reason of Ready, with what else tells it from other states.
	State  string `json:"state"`
	Object any    `json:"object"`
}

// object is what a tool reads of an object.
type object struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        objectMeta `json:"metadata"`
	Status          any        `json:"status"`
}

type objectMeta struct {
	Name              string `json:"name"`
	Namespace         string `json:"namespace"`
	Generation        int64  `json:"generation"`
	DeletionTimestamp string `json:"deletionTimestamp,omitempty"`
}

// otherReasons are those of events and of conditions beside Ready, Reconciling and Stalled.
var otherReasons = []string{
	v1alpha1.ReasonStatusCorrected, v1alpha1.ReasonStatusRefused,
	v1alpha1.ReasonListening, v1alpha1.ReasonPolling, v1alpha1.ReasonTLS, v1alpha1.ReasonNotEncrypted,
	v1alpha1.ReasonContextIgnored, v1alpha1.ReasonTooLargeToArchive, v1alpha1.ReasonTidyFailed,
}

// stateTable makes the table of states with the functions that set the conditions of each kind.
type stateTable struct {
	now     time.Time
	states  []objectState
	reasons map[string]bool
}

func (s *stateTable) add(kind, state string, generation int64, deleted bool, status any) {
	meta := objectMeta{Name: "example", Namespace: "default", Generation: generation}
	if deleted {
		meta.DeletionTimestamp = "2027-01-01T00:00:00Z"
	}
	s.states = append(s.states, objectState{kind, state, object{
		metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: kind}, meta, status,
	}})
}

// set returns a function that adds the state that conditions describe.
func (s *stateTable) set(kind, state, reason string, with func(set setCondition)) {
	s.reasons[reason] = true
	status := v1alpha1.BackendStatus{ObservedGeneration: 2} // the fields that tools read are those of all kinds
	with(conditionSetter(&status.Conditions, 2, s.now))
	s.add(kind, reason+state, 2, false, status)
}

// general adds the states that objects of each kind have: not seen yet, changed since, being deleted.
func (s *stateTable) general(t *testing.T, kind, file, stored string) {
	t.Helper()
	crd, err := crdtest.Load(filepath.Join(repository, "config/crd/bases", file))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := crd.Store([]byte(stored))
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	var created struct{ Status map[string]any }
	if err := json.Unmarshal(raw, &created); err != nil {
		t.Fatal(err)
	}
	s.reasons[v1alpha1.ReasonNotObserved] = true
	s.add(kind, v1alpha1.ReasonNotObserved, 1, false, created.Status)
	ready := v1alpha1.BackendStatus{ObservedGeneration: 2}
	conditionSetter(&ready.Conditions, 2, s.now)(v1alpha1.ConditionReady, true, v1alpha1.ReasonCompleted, "was ready")
	s.add(kind, "changed since", 3, false, ready)
	s.add(kind, "ready, generation unknown", 2, false, v1alpha1.BackendStatus{Conditions: ready.Conditions})
	s.add(kind, "being deleted", 2, true, ready)
}

func (s *stateTable) backends() {
	ready := func(reason string, truth bool) {
		s.set("Backend", "", reason, func(set setCondition) {
			setBackendState(set, backend.State{Known: true, Ready: truth, Reason: reason, Message: "says " + reason})
		})
	}
	ready(v1alpha1.ReasonConnected, true)
	for _, reason := range []string{
		v1alpha1.ReasonSecretNotFound, v1alpha1.ReasonInvalidURL, v1alpha1.ReasonAuthenticationFailed, v1alpha1.ReasonDatabaseMissing,
		v1alpha1.ReasonUnreachable, v1alpha1.ReasonSlow, v1alpha1.ReasonMigrating, v1alpha1.ReasonTLSFailed, v1alpha1.ReasonAddressDenied,
		v1alpha1.ReasonReadOnly, v1alpha1.ReasonInsufficientPrivilege, v1alpha1.ReasonSchemaMissing, v1alpha1.ReasonSchemaTooNew,
		v1alpha1.ReasonInternalError, v1alpha1.ReasonUnexpectedAnswer, v1alpha1.ReasonMigrationFailed, v1alpha1.ReasonUnreadable,
	} {
		ready(reason, false)
	}
}

func (s *stateTable) pools() {
	add := func(reason, text string, ready, stalled bool) {
		s.set("WorkerPool", text, reason, func(set setCondition) {
			setPoolState(set, poolState{ready: ready, stalled: stalled, reason: reason, message: "says " + reason})
		})
	}
	add(v1alpha1.ReasonPodsReady, "", true, false)
	for _, reason := range []string{v1alpha1.ReasonUnreadable, v1alpha1.ReasonInvalidTemplate, v1alpha1.ReasonStuckSteps} {
		add(reason, "", false, true)
	}
	for _, reason := range []string{v1alpha1.ReasonApplyFailed, v1alpha1.ReasonBackendNotFound, v1alpha1.ReasonBackendNotReady} {
		add(reason, "", false, false)
	}
	for _, reason := range []string{
		v1alpha1.ReasonRollingOut, v1alpha1.ReasonImagePullFailed, v1alpha1.ReasonCrashLooping, v1alpha1.ReasonContainerNotStarting, v1alpha1.ReasonPodsUnschedulable,
	} {
		add(reason, "", false, false)
		add(reason, ", progressDeadlineSeconds have passed", false, true)
	}
}

func (s *stateTable) schedules() {
	for _, reason := range []string{
		v1alpha1.ReasonActive, v1alpha1.ReasonNoMoreSlots, v1alpha1.ReasonSuspended, v1alpha1.ReasonPausedAfterFailures, v1alpha1.ReasonInvalidSchedule,
		v1alpha1.ReasonInvalidRunTemplate, v1alpha1.ReasonNameConflict, v1alpha1.ReasonStartFailed, v1alpha1.ReasonTooManyOpenRuns, v1alpha1.ReasonUnreadable,
		v1alpha1.ReasonBackendNotFound, v1alpha1.ReasonBackendNotReady,
	} {
		object := &v1alpha1.WorkflowSchedule{ObjectMeta: metav1.ObjectMeta{Generation: 2}}
		p := &schedulePlan{seen: scheduleSeen{Schedule: object, Now: s.now}, reason: reason, message: "says " + reason}
		p.conditions()
		s.reasons[reason] = true
		s.add("WorkflowSchedule", reason, 2, false, v1alpha1.WorkflowScheduleStatus{ObservedGeneration: 2, Conditions: p.status.Conditions})
	}
}

func (s *stateTable) signals() {
	object := &v1alpha1.WorkflowSignal{ObjectMeta: metav1.ObjectMeta{Generation: 2, CreationTimestamp: metav1.NewTime(s.now)}}
	add := func(reason string, seen signalSeen) {
		seen.Signal, seen.Now, seen.ServerNow = object, s.now, s.now
		s.reasons[reason] = true
		s.add("WorkflowSignal", reason, 2, false, v1alpha1.WorkflowSignalStatus{ObservedGeneration: 2, Conditions: signalStatus(seen).Conditions})
	}
	ready := backend.State{Known: true, Ready: true}
	for reason, state := range sorted(map[string]store.SignalState{
		v1alpha1.ReasonWaiting: store.SignalWaiting, v1alpha1.ReasonDelivered: store.SignalDelivered, v1alpha1.ReasonNoReceiver: store.SignalUnreceived,
		v1alpha1.ReasonExpired: store.SignalExpired, v1alpha1.ReasonRunEnded: store.SignalRunEnded,
	}) {
		add(reason, signalSeen{Backend: ready, Result: &store.SignalResult{State: state}})
	}
	for _, reason := range []string{
		v1alpha1.ReasonInvalidSignal, v1alpha1.ReasonStale, v1alpha1.ReasonAlreadyDecided, v1alpha1.ReasonNotAnApprover, v1alpha1.ReasonUnreadable,
	} {
		add(reason, signalSeen{Backend: ready, Refused: reason, Message: "says " + reason})
	}
	add(v1alpha1.ReasonRunNotFound, signalSeen{Backend: ready, Missing: "says RunNotFound"})
	add(v1alpha1.ReasonBackendNotFound, signalSeen{Backend: backend.State{Known: true, Reason: v1alpha1.ReasonBackendNotFound, Message: "says BackendNotFound"}})
	add(v1alpha1.ReasonBackendNotReady, signalSeen{Backend: backend.State{Known: true}})
}

// sorted goes through a map in the order of its keys.
func sorted[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			if !yield(key, m[key]) {
				return
			}
		}
	}
}

func (s *stateTable) runs() {
	add := func(state v1alpha1.RunState, reason, text string, status v1alpha1.WorkflowRunStatus) {
		s.reasons[reason] = true
		s.add("WorkflowRun", reason+text, 2, false, v1alpha1.WorkflowRunStatus{
			ObservedGeneration: 2, State: state, Message: status.Message, Conditions: status.Conditions,
		})
	}
	project := func(state v1alpha1.RunState, reason string) v1alpha1.WorkflowRunStatus {
		return v1alpha1.WorkflowRunStatus{State: state, Conditions: projection.Conditions(state, reason, "says "+reason, s.now)}
	}
	for _, state := range []v1alpha1.RunState{v1alpha1.RunPending, v1alpha1.RunRunning, v1alpha1.RunWaiting} {
		for _, reason := range []string{
			v1alpha1.ReasonPending, v1alpha1.ReasonScheduled, v1alpha1.ReasonRunning, v1alpha1.ReasonWaiting, v1alpha1.ReasonRetrying, v1alpha1.ReasonSuspended,
			v1alpha1.ReasonNoWorker, v1alpha1.ReasonKeyLocked, v1alpha1.ReasonQuarantined, v1alpha1.ReasonSourceNotFound, v1alpha1.ReasonSourceNotEnded,
			v1alpha1.ReasonBackendNotFound, v1alpha1.ReasonBackendNotReady,
		} {
			add(state, reason, ", "+string(state), project(state, reason))
		}
		for _, reason := range []string{v1alpha1.ReasonUnreadable, v1alpha1.ReasonRunMissing} {
			seen := runSeen{Run: &v1alpha1.WorkflowRun{}, Now: s.now}
			add(state, reason, ", "+string(state), stalledStatus(seen, v1alpha1.WorkflowRunStatus{State: state}, reason, "says "+reason))
		}
	}
	add(v1alpha1.RunCompleted, v1alpha1.ReasonCompleted, "", project(v1alpha1.RunCompleted, v1alpha1.ReasonCompleted))
	add(v1alpha1.RunCanceled, v1alpha1.ReasonCanceled, "", project(v1alpha1.RunCanceled, v1alpha1.ReasonCanceled))
	for _, reason := range []string{
		v1alpha1.ReasonWorkflowFailed, v1alpha1.ReasonDeadlineExceeded, v1alpha1.ReasonWorkerDeathsExceeded,
		v1alpha1.ReasonInvalidInput, v1alpha1.ReasonKeyConflict, v1alpha1.ReasonInvalidFork,
	} {
		failed := project(v1alpha1.RunFailed, reason)
		add(v1alpha1.RunFailed, reason, "", failed)
		projection.Supersede(&failed, &openworkflow.Run{ID: "b", UpdatedAt: s.now})
		add(v1alpha1.RunFailed, v1alpha1.ReasonSuperseded, " after "+reason, failed)
	}
}

// newStateTable returns the states of all kinds.
func newStateTable(t *testing.T) *stateTable {
	t.Helper()
	s := &stateTable{now: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), reasons: map[string]bool{}}
	const header = `{"apiVersion": "openworkflow.dev/v1alpha1", "metadata": {"name": "example"}, "kind": `
	s.general(t, "Backend", "openworkflow.dev_backends.yaml", header+`"Backend", "spec": {"postgres": {"urlSecretRef": {"name": "a"}}}}`)
	s.backends()
	s.general(t, "WorkerPool", "openworkflow.dev_workerpools.yaml", header+`"WorkerPool", "spec": {"template": {"spec": {"containers": [{"name": "worker"}]}}}}`)
	s.pools()
	s.general(t, "WorkflowRun", "openworkflow.dev_workflowruns.yaml", header+`"WorkflowRun", "spec": {"workflowName": "checkout"}}`)
	s.runs()
	s.general(t, "WorkflowSchedule", "openworkflow.dev_workflowschedules.yaml", header+`"WorkflowSchedule", "spec": {"schedules": ["@daily"], "runTemplate": {"workflowName": "checkout"}}}`)
	s.schedules()
	s.general(t, "WorkflowSignal", "openworkflow.dev_workflowsignals.yaml", header+`"WorkflowSignal", "spec": {"signal": "paid"}}`)
	s.signals()
	return s
}

// reasonConstants returns the values of the constants in conditions.go whose names begin with Reason.
func reasonConstants(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(repository, "api/v1alpha1/conditions.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]bool{}
	for spec := range ast.Preorder(file) {
		v, ok := spec.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(v.Names[0].Name, "Reason") {
			continue
		}
		values[strings.Trim(v.Values[0].(*ast.BasicLit).Value, `"`)] = true
	}
	return values
}

// The table has each reason that a condition Ready may have, of each kind. A new reason is added to
// it, and the golden file is written anew with -update.
func TestStates_HaveEachReason(t *testing.T) {
	t.Parallel()
	have := newStateTable(t).reasons
	for _, reason := range otherReasons {
		have[reason] = true
	}
	want := slices.Sorted(maps.Keys(reasonConstants(t)))
	if got := slices.Sorted(maps.Keys(have)); !slices.Equal(got, want) {
		for _, reason := range want {
			if !have[reason] {
				t.Errorf("no state has the reason %s: add it to stateTable", reason)
			}
		}
		t.Fatalf("the table has the reasons\n%s\nand conditions.go\n%s", got, want)
	}
}

func TestStates_AreThoseOfTheGoldenFile(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	names := map[string]bool{}
	for _, state := range newStateTable(t).states {
		if name := fmt.Sprintf("%s %s", state.Kind, state.State); names[name] {
			t.Errorf("there are two states %q", name)
		} else {
			names[name] = true
		}
		if err := json.NewEncoder(&got).Encode(state); err != nil {
			t.Fatal(err)
		}
	}
	if *update {
		if err := os.WriteFile(statesFile, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(statesFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the states have changed: run go test ./internal/controller -run TestStates -update, then make argocd")
	}
}
