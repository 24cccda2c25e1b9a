package projection

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 678_901_000, time.UTC)

func after(d time.Duration) *time.Time { t := t0.Add(d); return &t }

func row(change func(*openworkflow.Run)) *openworkflow.Run {
	run := &openworkflow.Run{
		ID: "run-1", WorkflowName: "checkout", Status: openworkflow.RunPending,
		AvailableAt: after(0), CreatedAt: t0, UpdatedAt: t0,
	}
	change(run)
	return run
}

func TestStatusSaysWhereARunIs(t *testing.T) {
	sleeping := openworkflow.StepSummary{Running: 1, Names: 1, Newest: []openworkflow.StepAttempt{
		{ID: "a", StepName: "nap", Kind: openworkflow.KindSleep, Status: openworkflow.StepRunning},
	}}
	charging := openworkflow.StepSummary{Running: 1, Names: 1, Newest: []openworkflow.StepAttempt{
		{ID: "a", StepName: "charge-card", Kind: openworkflow.KindFunction, Status: openworkflow.StepRunning},
	}}
	for name, c := range map[string]struct {
		run     *openworkflow.Run
		steps   openworkflow.StepSummary
		state   v1alpha1.RunState
		reason  string
		message string
		truths  string // types of the conditions that are true
	}{
		"new": {
			run:   row(func(*openworkflow.Run) {}),
			state: v1alpha1.RunPending, reason: v1alpha1.ReasonPending,
			message: "waiting for a worker", truths: "Reconciling",
		},
		"available later": {
			run:   row(func(r *openworkflow.Run) { r.AvailableAt = after(time.Hour) }),
			state: v1alpha1.RunPending, reason: v1alpha1.ReasonScheduled,
			message: "starts at 2026-01-02T04:04:05Z", truths: "Reconciling",
		},
		"claimed": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.WorkerID = openworkflow.RunRunning, 1, new("pod.p.1")
			}),
			steps: charging,
			state: v1alpha1.RunRunning, reason: v1alpha1.ReasonRunning,
			message: `executing step "charge-card"`, truths: "Reconciling",
		},
		"asleep": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.AvailableAt = openworkflow.RunRunning, 1, after(time.Hour)
			}),
			steps: sleeping,
			state: v1alpha1.RunWaiting, reason: v1alpha1.ReasonWaiting,
			message: `sleeping in step "nap" until 2026-01-02T04:04:05Z`, truths: "Reconciling",
		},
		"waiting for a signal, and for something else": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.AvailableAt = openworkflow.RunRunning, 1, after(time.Hour)
			}),
			steps: openworkflow.StepSummary{Running: 2, Names: 2, Newest: []openworkflow.StepAttempt{
				{StepName: "label", Kind: openworkflow.KindWorkflow, Status: openworkflow.StepRunning},
				{
					StepName: "approval", Kind: openworkflow.KindSignalWait, Status: openworkflow.StepRunning,
					Context: json.RawMessage(`{"kind":"signal-wait","signal":"approval:1001","timeoutAt":"2027-01-02T03:04:05.000Z"}`),
				},
			}},
			state: v1alpha1.RunWaiting, reason: v1alpha1.ReasonWaiting,
			message: `waiting for signal "approval:1001" in step "approval", and 1 more`, truths: "Reconciling",
		},
		"handed back by a worker that stops": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.AvailableAt = openworkflow.RunRunning, 1, after(0)
			}),
			steps: charging,
			state: v1alpha1.RunPending, reason: v1alpha1.ReasonPending,
			message: "waiting for a worker to go on", truths: "Reconciling",
		},
		"retrying": {
			run: row(func(r *openworkflow.Run) {
				r.Attempts, r.AvailableAt = 1, after(2*time.Second)
				r.Error = openworkflow.Error{Message: "card service is down"}.Encode()
			}),
			state: v1alpha1.RunPending, reason: v1alpha1.ReasonRetrying,
			message: "next attempt at 2026-01-02T03:04:07Z after: card service is down", truths: "Reconciling",
		},
		"suspended": {
			run: row(func(r *openworkflow.Run) {
				r.AvailableAt, r.SuspendedAt = nil, after(0)
			}),
			state: v1alpha1.RunPending, reason: v1alpha1.ReasonSuspended,
			message: "suspended; set spec.suspend to false to go on", truths: "",
		},
		"completed": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.WorkerID = openworkflow.RunCompleted, 1, new("pod.p.1")
				r.AvailableAt, r.FinishedAt, r.StartedAt = nil, after(3*time.Second), after(time.Second)
			}),
			state: v1alpha1.RunCompleted, reason: v1alpha1.ReasonCompleted,
			truths: "Ready Complete",
		},
		"failed": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.AvailableAt, r.FinishedAt = openworkflow.RunFailed, 1, nil, after(time.Second)
				r.Error = openworkflow.Error{Message: "card was declined"}.Encode()
			}),
			state: v1alpha1.RunFailed, reason: v1alpha1.ReasonWorkflowFailed,
			message: "card was declined", truths: "Failed Stalled",
		},
		"quarantined": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.Deaths, r.DiedAt, r.AvailableAt = openworkflow.RunRunning, 3, 3, after(0), after(5*time.Second)
			}),
			steps: charging,
			state: v1alpha1.RunPending, reason: v1alpha1.ReasonQuarantined,
			message: `the worker process has died 3 times in a row in step "charge-card" of the run; next attempt at 2026-01-02T03:04:10Z, ` +
				`apart from other such runs`, truths: "Reconciling",
		},
		"after one death": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.Deaths, r.DiedAt = openworkflow.RunRunning, 3, 1, after(0)
			}),
			steps: charging,
			state: v1alpha1.RunPending, reason: v1alpha1.ReasonPending,
			message: "waiting for a worker to go on", truths: "Reconciling",
		},
		"asleep after several deaths": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.Deaths, r.DiedAt, r.AvailableAt = openworkflow.RunRunning, 3, 3, after(-time.Hour), after(10*time.Second)
			}),
			steps: openworkflow.StepSummary{Running: 1, Names: 1, Newest: []openworkflow.StepAttempt{
				{ID: "a", StepName: "nap", Kind: openworkflow.KindSleep, Status: openworkflow.StepRunning, CreatedAt: t0},
			}},
			state: v1alpha1.RunWaiting, reason: v1alpha1.ReasonWaiting,
			message: `sleeping in step "nap" until 2026-01-02T03:04:15Z`, truths: "Reconciling",
		},
		"its worker has died too often": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.Attempts, r.AvailableAt, r.FinishedAt = openworkflow.RunFailed, 6, nil, after(time.Second)
				r.Error = openworkflow.WorkerDeathsError("charge-card", 5).Encode()
			}),
			state: v1alpha1.RunFailed, reason: v1alpha1.ReasonWorkerDeathsExceeded,
			message: `the worker process has died 5 times in a row in step "charge-card" of the run, without progress; the run is not executed again`,
			truths:  "Failed Stalled",
		},
		"past its deadline": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.AvailableAt, r.FinishedAt = openworkflow.RunFailed, nil, after(time.Second)
				r.Error = openworkflow.Error{Message: openworkflow.DeadlineMessage}.Encode()
			}),
			state: v1alpha1.RunFailed, reason: v1alpha1.ReasonDeadlineExceeded,
			message: "the run did not end before its deadline", truths: "Failed Stalled",
		},
		"canceled": {
			run: row(func(r *openworkflow.Run) {
				r.Status, r.AvailableAt, r.FinishedAt = openworkflow.RunCanceled, nil, after(time.Second)
			}),
			state: v1alpha1.RunCanceled, reason: v1alpha1.ReasonCanceled,
			message: "the run was canceled", truths: "Ready",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := Status(c.run, c.steps, "")
			var truths []string
			for _, condition := range status.Conditions {
				if condition.Status == metav1.ConditionTrue {
					truths = append(truths, condition.Type)
				}
				if condition.Reason != c.reason {
					t.Errorf("reason of %s is %q, want %q", condition.Type, condition.Reason, c.reason)
				}
			}
			if diff := cmp.Diff([]string{string(c.state), c.message, c.truths},
				[]string{string(status.State), status.Message, strings.Join(truths, " ")}); diff != "" {
				t.Errorf("state, message, true conditions (-want +got):\n%s", diff)
			}
		})
	}
}

// P4: the rows of a later moment have the larger revision.
func TestP4RevisionGrowsAlongTheLifeOfARun(t *testing.T) {
	t.Parallel()
	type moment struct {
		name  string
		run   *openworkflow.Run
		steps openworkflow.StepSummary
	}
	active := func(claims int) *openworkflow.Run {
		return row(func(r *openworkflow.Run) {
			r.Status, r.Attempts, r.WorkerID = openworkflow.RunRunning, claims, new("w")
		})
	}
	life := []moment{
		{"created", row(func(*openworkflow.Run) {}), openworkflow.StepSummary{}},
		{"claimed", active(1), openworkflow.StepSummary{}},
		{"step begun", active(1), openworkflow.StepSummary{Running: 1}},
		{"step failed", active(1), openworkflow.StepSummary{Failed: 1}},
		{"put off", row(func(r *openworkflow.Run) { r.Attempts = 1 }), openworkflow.StepSummary{Failed: 1}},
		{"claimed again", active(2), openworkflow.StepSummary{Failed: 1}},
		{"step completed", active(2), openworkflow.StepSummary{Failed: 1, Completed: 1}},
		{
			"parked",
			row(func(r *openworkflow.Run) { r.Status, r.Attempts = openworkflow.RunRunning, 2 }),
			openworkflow.StepSummary{Failed: 1, Completed: 1, Running: 1},
		},
		{
			"canceled while parked",
			row(func(r *openworkflow.Run) { r.Status, r.Attempts = openworkflow.RunCanceled, 2 }),
			openworkflow.StepSummary{Failed: 1, Completed: 1, Running: 1},
		},
	}
	for i := 1; i < len(life); i++ {
		before, now := Revision(life[i-1].run, life[i-1].steps), Revision(life[i].run, life[i].steps)
		if now <= before {
			t.Errorf("%q has revision %d, not above %d of %q before it", life[i].name, now, before, life[i-1].name)
		}
	}
	canceled := Revision(row(func(r *openworkflow.Run) { r.Status = openworkflow.RunCanceled }), openworkflow.StepSummary{})
	if canceled <= Revision(life[0].run, life[0].steps) {
		t.Errorf("a run canceled before its first claim has revision %d, not above that of the new run", canceled)
	}
}

func TestStatusStaysBelow8KiB(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat(`"ü<\n`, 10_000)
	steps := openworkflow.StepSummary{Completed: 1_000_000, Failed: 1_000_000, Running: 1_000_000, Names: 3_000_000}
	for range 50 {
		steps.Newest = append(steps.Newest, openworkflow.StepAttempt{
			StepName: huge, Kind: openworkflow.KindFunction, Status: openworkflow.StepFailed,
			StartedAt: after(0), FinishedAt: after(0),
			Error: openworkflow.Error{Name: huge, Message: huge, Stack: huge}.Encode(),
		})
	}
	for _, status := range []openworkflow.RunStatus{openworkflow.RunFailed, openworkflow.RunPending, openworkflow.RunCompleted} {
		run := row(func(r *openworkflow.Run) {
			r.Status, r.Attempts, r.FinishedAt, r.StartedAt = status, 1_000_000, after(0), after(0)
			r.Error = openworkflow.Error{Name: huge, Message: huge}.Encode()
			r.Output = json.RawMessage(`"` + strings.Repeat("x", maxOutput-2) + `"`)
		})
		encoded, err := json.Marshal(Status(run, steps, strings.Repeat("p", 253)))
		if err != nil {
			t.Fatal(err)
		}
		if len(encoded) > 8<<10 {
			t.Errorf("the status of a %s run takes %d bytes", status, len(encoded))
		}
	}
}

func TestStepsAreListedUntilARunCompletes(t *testing.T) {
	t.Parallel()
	steps := openworkflow.StepSummary{Completed: 1, Names: 1, Newest: []openworkflow.StepAttempt{
		{StepName: "charge", Kind: openworkflow.KindFunction, Status: openworkflow.StepCompleted},
	}}
	for status, want := range map[openworkflow.RunStatus]int{
		openworkflow.RunPending: 1, openworkflow.RunRunning: 1, openworkflow.RunFailed: 1, openworkflow.RunCanceled: 1,
		openworkflow.RunCompleted: 0, openworkflow.RunSucceeded: 0,
	} {
		shown := Status(row(func(r *openworkflow.Run) { r.Status = status }), steps, "pod").Steps
		if len(shown.Newest) != want || *shown.Completed != 1 || shown.Summary != "1/1" {
			t.Errorf("a run that is %s shows %d steps of %s, want %d", status, len(shown.Newest), shown.Summary, want)
		}
	}
}

// Each member costs the API server time, and most objects are completed runs.
func TestStatusOfACompletedRunHasOnlyWhatItTells(t *testing.T) {
	t.Parallel()
	encode := func(steps openworkflow.StepSummary) string {
		encoded, err := json.Marshal(Status(row(func(r *openworkflow.Run) {
			r.Status, r.Attempts, r.WorkerID = openworkflow.RunCompleted, 1, new("pod.p.1")
			r.AvailableAt, r.StartedAt, r.FinishedAt = nil, after(0), after(time.Second)
		}), steps, "pod"))
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(encoded, &members); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(slices.Sorted(maps.Keys(members)), string(members["steps"]))
	}
	const always = "[attempts conditions duration finishedAt revision runID startedAt state steps worker]"
	if got, want := encode(openworkflow.StepSummary{Completed: 2, Names: 2}), always+`{"summary":"2/2","completed":2}`; got != want {
		t.Errorf("it has %s, want %s", got, want)
	}
	if got, want := encode(openworkflow.StepSummary{Completed: 2, Failed: 1, Names: 2}), always+`{"summary":"2/2","completed":2,"failed":1}`; got != want {
		t.Errorf("after a retry it has %s, want %s", got, want)
	}
	if got, want := encode(openworkflow.StepSummary{}), always+`{"summary":"0/0"}`; got != want {
		t.Errorf("without steps it has %s, want %s", got, want)
	}
}

func TestPatchNamesTheObjectAndClearsWhatIsOver(t *testing.T) {
	t.Parallel()
	run := row(func(r *openworkflow.Run) {
		r.Status, r.Attempts, r.WorkerID = openworkflow.RunRunning, 1, new("w")
	})
	patch, err := Patch("uid-1", Status(run, openworkflow.StepSummary{}, "pod-1"))
	if err != nil {
		t.Fatal(err)
	}
	var got []struct{ Op, Path, Value any }
	if err := json.Unmarshal(patch, &got); err != nil {
		t.Fatal(err)
	}
	if first := got[0]; first.Op != "test" || first.Path != "/metadata/uid" || first.Value != "uid-1" {
		t.Errorf("patch begins with %v, want a test of the uid", first)
	}
	last := map[any]any{} // what is done last at each path
	for _, operation := range got {
		last[operation.Path] = operation.Op
	}
	for _, name := range []string{"error", "output", "finishedAt", "nextAt", "duration"} {
		if last["/status/"+name] != "remove" {
			t.Errorf("patch leaves %s: it may be there from an earlier attempt", name)
		}
	}
	for _, name := range []string{"startedAt", "observedGeneration"} {
		if op, ok := last["/status/"+name]; ok {
			t.Errorf("patch has %v of %s, want it left as the object has it", op, name)
		}
	}
	if op, ok := last["/metadata/resourceVersion"]; ok {
		t.Errorf("patch has %v of a resource version", op)
	}
}

// A member that the patch forgets would never be shown.
func TestPatchHasEveryMemberOfAStatus(t *testing.T) {
	t.Parallel()
	var status v1alpha1.WorkflowRunStatus
	var want []string
	for field := range reflect.TypeFor[v1alpha1.WorkflowRunStatus]().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		want = append(want, name)
	}
	var got []string
	for _, m := range members(&status) {
		got = append(got, m.name)
		if m.has {
			t.Errorf("an empty status has %s", m.name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

func TestPatchOfOneGenerationTestsIt(t *testing.T) {
	t.Parallel()
	patch, err := PatchAt("", "uid-1", 3, Status(row(func(*openworkflow.Run) {}), openworkflow.StepSummary{}, ""))
	if err != nil {
		t.Fatal(err)
	}
	var got []struct {
		Op, Path string
		Value    any
	}
	if err := json.Unmarshal(patch, &got); err != nil {
		t.Fatal(err)
	}
	if test := got[1]; test.Op != "test" || test.Path != "/metadata/generation" || test.Value != 3.0 {
		t.Errorf("patch has %v, want a test of the generation", test)
	}
	if add := got[2]; add.Op != "add" || add.Path != "/status/observedGeneration" || add.Value != 3.0 {
		t.Errorf("patch has %v, want the generation as observed", add)
	}
}

func TestPatchOfAllThatThereCanBeReplacesTheStatus(t *testing.T) {
	t.Parallel()
	run := row(func(r *openworkflow.Run) {
		r.Status, r.Attempts, r.StartedAt, r.FinishedAt = openworkflow.RunCompleted, 1, after(0), after(time.Second)
		r.Output = json.RawMessage(`{"total":null}`)
	})
	status := Status(run, openworkflow.StepSummary{}, "pod-1")
	patch, err := PatchAt("default", "uid-1", 3, status)
	if err != nil {
		t.Fatal(err)
	}
	var got []struct {
		Op, Path string
		Value    json.RawMessage
	}
	if err := json.Unmarshal(patch, &got); err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 || got[3].Op != "add" || got[3].Path != "/status" {
		t.Fatalf("patch is %s, want three tests and the status", patch)
	}
	if test := got[1]; test.Op != "test" || test.Path != "/spec/backendRef/name" || string(test.Value) != `"default"` {
		t.Errorf("patch has %v, want a test of the object's Backend", test)
	}
	var shown v1alpha1.WorkflowRunStatus
	if err := json.Unmarshal(got[3].Value, &shown); err != nil {
		t.Fatal(err)
	}
	status.ObservedGeneration = 3
	if !equality.Semantic.DeepEqual(status, shown) {
		t.Errorf("status (-want +got):\n%s", cmp.Diff(status, shown))
	}
}

func TestReplaceIsForAllThatThereCanBeOfAVersion(t *testing.T) {
	t.Parallel()
	object := &openworkflow.ObjectRef{Namespace: "shop", Name: "order-1", UID: "uid-1", Generation: 3, ResourceVersion: "5"}
	status := Status(row(func(r *openworkflow.Run) {
		r.Status, r.Attempts, r.StartedAt, r.FinishedAt = openworkflow.RunCompleted, 1, after(0), after(time.Second)
		r.Output = json.RawMessage(`{"total":null}`)
	}), openworkflow.StepSummary{}, "pod-1")
	body, ok, err := Replace(object, status)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	var got v1alpha1.WorkflowRun
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	want := v1alpha1.WorkflowRun{
		TypeMeta:   metav1.TypeMeta{APIVersion: "openworkflow.dev/v1alpha1", Kind: "WorkflowRun"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "order-1", UID: "uid-1", ResourceVersion: "5"},
		Status:     status,
	}
	want.Status.ObservedGeneration = 3
	if !equality.Semantic.DeepEqual(want, got) {
		t.Errorf("object (-want +got):\n%s", cmp.Diff(want, got))
	}

	withoutStart, withoutWorker := status, status
	withoutStart.StartedAt, withoutWorker.Worker = nil, ""
	unknown := *object
	unknown.ResourceVersion = ""
	for name, test := range map[string]struct {
		object *openworkflow.ObjectRef
		status v1alpha1.WorkflowRunStatus
	}{
		"a status without a start":    {object, withoutStart},
		"a status without a worker":   {object, withoutWorker},
		"an object of which version?": {&unknown, status},
	} {
		t.Run(name, func(t *testing.T) {
			if body, ok, err := Replace(test.object, test.status); ok || err != nil {
				t.Errorf("it is replaced by %s, %v", body, err)
			}
		})
	}
}

func TestTruncateCutsAtEncodedSizeBetweenCharacters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"short", 10, "short"},
		{"exactly ten", 11, "exactly ten"},
		{"a longer text", 10, "a longe…"},
		{`""""""`, 9, `"""…`},
		{"ääääää", 7, "ää…"},
	} {
		t.Run(c.text, func(t *testing.T) {
			if got := truncate(c.text, c.limit); got != c.want {
				t.Errorf("truncate(%q, %d) = %q, want %q", c.text, c.limit, got, c.want)
			}
		})
	}
}

// A worker that dies leaves the running row of its step behind, and nobody is left to end it.
func TestStatus_P4_NothingRunsOnceARunHasEnded(t *testing.T) {
	for _, status := range []openworkflow.RunStatus{openworkflow.RunCompleted, openworkflow.RunFailed, openworkflow.RunCanceled} {
		run := &openworkflow.Run{Status: status, Attempts: 2, FinishedAt: new(time.Now())}
		got := Status(run, openworkflow.StepSummary{Running: 1, Completed: 2, Names: 2}, "pod")
		if got.Steps.Running != nil || *got.Steps.Completed != 2 {
			t.Errorf("%s: the status has the steps %+v, want none running", status, got.Steps)
		}
	}
}

func TestStatus_P4_ARunThatNeverBeganHasNoDuration(t *testing.T) {
	created := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		status   openworkflow.RunStatus
		attempts int
		want     string
	}{
		{openworkflow.RunCanceled, 0, ""},
		{openworkflow.RunFailed, 0, ""}, // by its deadline
		{openworkflow.RunFailed, 1, "1h0m0s"},
	} {
		run := &openworkflow.Run{Status: c.status, Attempts: c.attempts, CreatedAt: created, FinishedAt: new(created.Add(time.Hour))}
		if got := Status(run, openworkflow.StepSummary{}, "").Duration; got != c.want {
			t.Errorf("%s after %d claims: the duration is %q, want %q", c.status, c.attempts, got, c.want)
		}
	}
}

// A failed run whose fork has completed is as ready as a run can be, and still failed.
func TestSupersede_P4_AFailedRunIsReadyAndStaysFailed(t *testing.T) {
	t.Parallel()
	failed := row(func(r *openworkflow.Run) {
		r.Status, r.Attempts, r.FinishedAt, r.Error = openworkflow.RunFailed, 1, after(time.Minute), json.RawMessage(`{"message":"declined"}`)
		r.ForkedFrom, r.ForkStep, r.SupersededBy = new("run-0"), new(strings.Repeat("s", 500)), new("run-2")
	})
	status := Status(failed, openworkflow.StepSummary{}, "")
	if status.ForkedFrom != "run-0" || len(status.ForkStep) > MaxStepName || status.SupersededBy != "run-2" {
		t.Errorf("the lineage is %q, %q, %q", status.ForkedFrom, status.ForkStep, status.SupersededBy)
	}
	revision := *status.Revision
	Supersede(&status, row(func(r *openworkflow.Run) { r.ID, r.FinishedAt = "run-3", after(time.Hour) }))
	var got []string
	for _, c := range status.Conditions {
		got = append(got, fmt.Sprintf("%s=%s %s %s", c.Type, c.Status, c.Reason, c.LastTransitionTime.UTC().Format(time.TimeOnly)))
	}
	if diff := cmp.Diff([]string{"Ready=True Superseded 04:04:05", "Failed=True WorkflowFailed 03:05:05"}, got); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if status.State != v1alpha1.RunFailed || *status.Revision != revision || status.Error.Message != "declined" ||
		status.Message != "run run-3, which was forked from this one, has completed" {
		t.Errorf("status is %+v", status)
	}
}
