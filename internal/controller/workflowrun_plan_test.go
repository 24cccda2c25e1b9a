package controller

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

func TestPlanRun(t *testing.T) {
	t.Parallel()
	ready := backend.State{Known: true, Ready: true}
	unreachable := backend.State{Known: true, Reason: v1alpha1.ReasonUnreachable, Message: "no route"}

	type change = func(*run)
	mirrored := func(r *run) { r.Status.RunID, r.Status.State = "uid", v1alpha1.RunPending }
	ended := func(r *run) {
		r.Status.State, r.Status.ObservedGeneration = v1alpha1.RunFailed, 1
		r.Status.FinishedAt = &metav1.Time{Time: noon.Add(-time.Minute)}
	}
	deleting := func(r *run) { r.DeletionTimestamp = &metav1.Time{Time: noon} }
	cancel := func(r *run) { r.Spec.Cancel = new(true) }
	suspend := func(r *run) { r.Spec.Suspend = new(true) }
	attached := func(r *run) { r.UID = "other" }
	keyed := func(r *run) { r.Spec.IdempotencyKey = "k" }
	ttl := func(seconds int32) change {
		return func(r *run) { r.Spec.TTLSecondsAfterFinished = &seconds }
	}

	row := func(changes ...func(*openworkflow.Run)) *openworkflow.Run {
		row := &openworkflow.Run{
			ID: "uid", WorkflowName: "checkout", Status: openworkflow.RunPending,
			AvailableAt: &noon, CreatedAt: noon, UpdatedAt: noon,
		}
		for _, change := range changes {
			change(row)
		}
		return row
	}
	suspended := func(r *openworkflow.Run) { r.SuspendedAt, r.AvailableAt = &noon, nil }
	canceled := func(r *openworkflow.Run) { r.Status = openworkflow.RunCanceled }

	// shows is the plan that writes the row's status.
	shows := func(row *openworkflow.Run) runPlan {
		return runPlan{Status: new(projection.Status(row, openworkflow.StepSummary{}, ""))}
	}
	waits := func(reason, message string) runPlan {
		return runPlan{Status: &v1alpha1.WorkflowRunStatus{
			State: v1alpha1.RunPending, Message: message,
			Conditions: projection.Conditions(v1alpha1.RunPending, reason, message, noon),
		}}
	}
	mirror := runPlan{Action: runMirror, NewRun: store.NewRun{
		ID: "uid", WorkflowName: "checkout",
		Context: openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{
			Cluster: "c", Namespace: "shop", Name: "order", UID: "uid", Generation: 1, ResourceVersion: "7",
		}}.Encode(),
	}}
	const missing = `run uid is no longer in the database of Backend "default"; it is not started again, as its steps ` +
		`may have run: delete this object, or bring the row back`

	for name, test := range map[string]struct {
		run     []change
		backend backend.State
		row     *openworkflow.Run
		refused string
		kept    time.Duration
		want    runPlan
	}{
		"a new run is mirrored":                  {backend: ready, want: mirror},
		"a new fork is forked":                   {run: []change{retryOf("a")}, backend: ready, want: runPlan{Action: runFork, NewRun: mirror.NewRun}},
		"an unknown Backend allows no statement": {},
		"a run waits for its Backend": {
			backend: unreachable,
			want:    waits(v1alpha1.ReasonBackendNotReady, `Backend "default" is not ready (Unreachable): no route`),
		},
		"a missing Backend is named": {
			backend: backend.NotFound("default"),
			want:    waits(v1alpha1.ReasonBackendNotFound, backend.NotFound("default").Message),
		},
		"an object that is deleted is not started": {run: []change{deleting}, backend: ready},
		"what cannot be stored has failed": {backend: ready, refused: "no", want: runPlan{Status: &v1alpha1.WorkflowRunStatus{
			State: v1alpha1.RunFailed, FinishedAt: &metav1.Time{Time: noon},
			Error:   &v1alpha1.RunError{Name: v1alpha1.ReasonInvalidInput, Message: "no"},
			Message: "no", Conditions: projection.Conditions(v1alpha1.RunFailed, v1alpha1.ReasonInvalidInput, "no", noon),
		}}},
		"a mirrored run is shown":                                {run: []change{mirrored}, backend: ready, row: row(), want: shows(row())},
		"a mirrored run keeps its status while Postgres is down": {run: []change{mirrored}, backend: unreachable},
		"a run whose row is gone is not started again": {run: []change{mirrored}, backend: ready, want: runPlan{
			Status: &v1alpha1.WorkflowRunStatus{RunID: "uid", State: v1alpha1.RunPending, Message: missing, Conditions: []metav1.Condition{
				{Type: "Ready", Status: "False", Reason: "RunMissing", Message: missing, LastTransitionTime: metav1.Time{Time: noon}},
				{Type: "Stalled", Status: "True", Reason: "RunMissing", Message: missing, LastTransitionTime: metav1.Time{Time: noon}},
			}},
		}},
		"cancel": {run: []change{mirrored, cancel}, backend: ready, row: row(), want: runPlan{Action: runCancel}},
		"an attached run does not cancel another's": {
			run: []change{mirrored, attached, keyed, cancel}, backend: ready, row: row(), want: shows(row()),
		},
		"cancel is done once":   {run: []change{mirrored, cancel}, backend: ready, row: row(canceled), want: shows(row(canceled))},
		"cancel before suspend": {run: []change{mirrored, cancel, suspend}, backend: ready, row: row(suspended), want: runPlan{Action: runCancel}},
		"an object that waits for a finalizer cancels": {
			run: []change{mirrored, deleting}, backend: ready, row: row(), want: runPlan{Action: runCancel},
		},
		"suspend":              {run: []change{mirrored, suspend}, backend: ready, row: row(), want: runPlan{Action: runSuspend}},
		"suspend is done once": {run: []change{mirrored, suspend}, backend: ready, row: row(suspended), want: shows(row(suspended))},
		"resume":               {run: []change{mirrored}, backend: ready, row: row(suspended), want: runPlan{Action: runResume}},
		"an attached run does not resume another's": {
			run: []change{mirrored, attached}, backend: ready, row: row(suspended), want: shows(row(suspended)),
		},
		"an attached run that is deleted cancels nothing": {
			run: []change{mirrored, deleting, attached}, backend: ready, row: row(), want: shows(row()),
		},
		"an ended run stays": {run: []change{ended}, backend: ready},
		"an ended run observes its spec": {
			run: []change{ended, func(r *run) { r.Generation = 2 }}, backend: ready,
			want: runPlan{Status: &v1alpha1.WorkflowRunStatus{
				State: v1alpha1.RunFailed, ObservedGeneration: 2, FinishedAt: &metav1.Time{Time: noon.Add(-time.Minute)},
			}},
		},
		"ttl in the future": {run: []change{ended, ttl(90)}, backend: ready, want: runPlan{RequeueAfter: 30 * time.Second}},
		"ttl counts from the object, for a run of long ago": {
			run:     []change{ended, ttl(60), func(r *run) { r.CreationTimestamp = metav1.Time{Time: noon.Add(-time.Second)} }},
			backend: ready, want: runPlan{RequeueAfter: 59 * time.Second},
		},
		"ttl is over": {run: []change{ended, ttl(60)}, backend: ready, want: runPlan{Action: runDelete}},
		"ttl is over, and its schedule needs it": {
			run: []change{ended, ttl(60)}, kept: keptCheck, backend: ready, want: runPlan{RequeueAfter: keptCheck},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			object := newTestRun("order", func(r *run) { r.Namespace, r.UID, r.Generation, r.ResourceVersion = "shop", "uid", 1, "7" })
			for _, change := range test.run {
				change(object)
			}
			got := planRun(runSeen{
				Run: object, Cluster: "c", Backend: test.backend, RunID: object.Status.RunID, Row: test.row, Refused: test.refused, RefusedReason: v1alpha1.ReasonInvalidInput, Now: noon,
				TTL: (&objectTTLs{}).of(object), Kept: test.kept,
			})
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewRun(t *testing.T) {
	t.Parallel()
	at := metav1.Time{Time: noon.Add(time.Hour)}
	object := newTestRun("order", func(r *run) {
		r.UID, r.CreationTimestamp = "uid", metav1.Time{Time: noon}
		r.Spec.Version, r.Spec.IdempotencyKey = "2", "k"
		r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(`{"a":1}`)}
		r.Spec.AvailableAt, r.Spec.TimeoutSeconds = &at, new(int64(60))
		r.Spec.Cancel = new(true)
	})
	want := store.NewRun{
		ID: "uid", WorkflowName: "checkout", Version: new("2"), IdempotencyKey: new("k"), Input: []byte(`{"a":1}`),
		AvailableAt: &at.Time, Timeout: 40 * time.Second, // what is left of timeoutSeconds
		Suspended: true, // a run that was canceled before it started must not start
		Context:   openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{Cluster: "c", Name: "order", UID: "uid"}}.Encode(),
	}
	if diff := cmp.Diff(want, newRun(object, "c", noon.Add(20*time.Second))); diff != "" {
		t.Errorf("row (-want +got):\n%s", diff)
	}
}

func TestPlanRun_InputThatIsTooLarge(t *testing.T) {
	t.Parallel()
	object := newTestRun("order", func(r *run) {
		r.Spec.Input = &apiextensionsv1.JSON{Raw: []byte(strings.Repeat("1", maxInput+1))}
	})
	plan := planRun(runSeen{Run: object, Backend: backend.State{Known: true, Ready: true}, Now: noon})
	if plan.Action != runNothing || plan.Status.State != v1alpha1.RunFailed || !strings.Contains(plan.Status.Message, "1048577 bytes") {
		t.Errorf("plan is %+v", plan)
	}
}

// A live worker reports the run that it has claimed or ended; the manager waits for that.
func TestPlanRun_WaitsForTheWorkersFirstReport(t *testing.T) {
	t.Parallel()
	object := func(uid string, generation int64) *run {
		return newTestRun("order", func(r *run) { r.UID, r.Generation = types.UID(uid), generation })
	}
	ref := openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{Namespace: "shop", Name: "order", UID: "uid", Generation: 1}}.Encode()
	claimed := openworkflow.Run{
		ID: "uid", Status: openworkflow.RunRunning, Attempts: 1, WorkerID: new("a.b.1"), Context: ref,
		StartedAt: &noon, CreatedAt: noon, UpdatedAt: noon,
	}
	ended := claimed
	ended.Status, ended.FinishedAt = openworkflow.RunCompleted, new(noon.Add(20*time.Second))
	at := func(after, delay time.Duration) func(*runSeen) {
		return func(s *runSeen) { s.Now, s.ReportDelay = noon.Add(after), delay }
	}
	inserted := func(delay time.Duration) func(*runSeen) {
		return func(s *runSeen) {
			s.Row, s.JustInserted, s.FirstReport, s.ReportDelay = nil, true, 2*time.Second, delay
		}
	}
	type want struct {
		state   v1alpha1.RunState // that is written
		expect  time.Duration
		overdue bool
	}
	for name, test := range map[string]struct {
		row    openworkflow.Run
		change func(*runSeen)
		want   want
	}{
		"claimed":                          {row: claimed, want: want{expect: 5 * time.Second}},
		"ended a moment ago":               {row: ended, change: at(52*time.Second, 0), want: want{expect: 3 * time.Second}},
		"ended, and no report":             {row: ended, change: at(55*time.Second, 0), want: want{state: v1alpha1.RunCompleted, overdue: true}},
		"ended, while reports take long":   {row: ended, change: at(80*time.Second, time.Minute), want: want{expect: 30 * time.Second}},
		"ended, and later reports arrived": {row: ended, change: at(65*time.Second, 10*time.Second), want: want{state: v1alpha1.RunCompleted, overdue: true}},
		"its worker has died": {
			row: claimed, change: func(s *runSeen) { s.WorkerReports = false }, want: want{state: v1alpha1.RunRunning},
		},
		"its spec has changed": {
			row: claimed, change: func(s *runSeen) { s.Run = object("uid", 2) }, want: want{state: v1alpha1.RunRunning},
		},
		"another object's run": {
			row: claimed, change: func(s *runSeen) { s.Run = object("u", 1) }, want: want{state: v1alpha1.RunRunning},
		},
		"inserted a moment ago":            {row: claimed, change: inserted(0), want: want{expect: 2 * time.Second}},
		"inserted while reports take long": {row: claimed, change: inserted(10 * time.Second), want: want{expect: 12 * time.Second}},
		"reported before": {
			row: ended, change: func(s *runSeen) { s.Run = object("uid", 1); s.Run.Status.RunID = "uid" }, want: want{state: v1alpha1.RunCompleted},
		},
		"claimed by none of them": {
			row:    openworkflow.Run{ID: "uid", Status: openworkflow.RunPending, Context: ref},
			change: func(s *runSeen) { s.WorkerReports = false }, want: want{state: v1alpha1.RunPending},
		},
		"claimed by none of them, and queued before the first report is late": {
			row:    openworkflow.Run{ID: "uid", Status: openworkflow.RunPending, Context: ref},
			change: func(s *runSeen) { s.WorkerReports, s.FirstReportLeft = false, 1500*time.Millisecond },
			want:   want{expect: 1500 * time.Millisecond},
		},
		"claimed by a worker that does not report, and queued before the first report is late": {
			row:    claimed,
			change: func(s *runSeen) { s.WorkerReports, s.FirstReportLeft = false, 1500*time.Millisecond },
			want:   want{state: v1alpha1.RunRunning},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			seen := runSeen{
				Run: object("uid", 1), RunID: "uid", Row: &test.row,
				Backend: backend.State{Known: true, Ready: true}, WorkerReports: true, Now: noon,
			}
			if test.change != nil {
				test.change(&seen)
			}
			plan := planRun(seen)
			got := want{expect: plan.ExpectReportWithin, overdue: plan.Overdue}
			if plan.Status != nil {
				got.state = plan.Status.State
			}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestRunStatus_KeepsTransitionTimes(t *testing.T) {
	t.Parallel()
	row := &openworkflow.Run{
		ID: "uid", Status: openworkflow.RunRunning, WorkerID: new("a.b.1"), Attempts: 1,
		StartedAt: &noon, CreatedAt: noon, UpdatedAt: noon,
	}
	object := newTestRun("order")
	object.Status = runStatus(runSeen{Run: object, Row: row, Worker: "pod-1"})
	row.UpdatedAt = noon.Add(time.Minute) // a heartbeat
	again := runStatus(runSeen{Run: object, Row: row})
	if !sameStatus(&object.Status, &again) {
		t.Errorf("a heartbeat changes the status:\n%s", cmp.Diff(object.Status, again))
	}
}
