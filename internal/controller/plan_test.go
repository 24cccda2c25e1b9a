package controller

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

var noon = time.Date(2030, 1, 2, 12, 0, 0, 0, time.UTC)

func TestPlanRun(t *testing.T) {
	t.Parallel()
	ready := backend.State{Known: true, Ready: true}
	type want struct {
		action  runAction
		reason  string // of the status
		requeue time.Duration
	}
	pending := func(changes ...func(*openworkflow.Run)) *openworkflow.Run {
		row := &openworkflow.Run{ID: "uid", WorkflowName: "checkout", Status: openworkflow.RunPending, AvailableAt: &noon, CreatedAt: noon, UpdatedAt: noon}
		for _, change := range changes {
			change(row)
		}
		return row
	}
	mirrored := func(r *run) { r.Status.RunID, r.Status.State = "uid", v1alpha1.RunPending }
	ended := func(r *run) {
		r.Status.State, r.Status.FinishedAt, r.Status.ObservedGeneration = v1alpha1.RunFailed, &metav1.Time{Time: noon.Add(-time.Minute)}, 1
	}
	deleting := func(r *run) { r.DeletionTimestamp = &metav1.Time{Time: noon} }
	cancel := func(r *run) { r.Spec.Cancel = new(true) }
	suspend := func(r *run) { r.Spec.Suspend = new(true) }
	suspended := func(r *openworkflow.Run) { r.SuspendedAt, r.AvailableAt = &noon, nil }
	canceled := func(r *openworkflow.Run) { r.Status = openworkflow.RunCanceled }
	ttl := func(seconds int32) func(*run) {
		return func(r *run) { r.Spec.TTLSecondsAfterFinished = &seconds }
	}
	tests := map[string]struct {
		run     []func(*run)
		backend backend.State
		row     *openworkflow.Run
		refused string
		want    want
	}{
		"a new run is mirrored":                                  {nil, ready, nil, "", want{action: runMirror}},
		"before anything is known nothing is said":               {nil, backend.State{}, nil, "", want{}},
		"a run waits for its Backend":                            {nil, backend.State{Known: true, Reason: v1alpha1.ReasonUnreachable}, nil, "", want{reason: v1alpha1.ReasonBackendNotReady}},
		"a missing Backend is named":                             {nil, backend.State{Known: true, Reason: v1alpha1.ReasonBackendNotFound}, nil, "", want{reason: v1alpha1.ReasonBackendNotFound}},
		"an object on its way out is not started":                {[]func(*run){deleting}, ready, nil, "", want{}},
		"what cannot be stored has failed":                       {nil, ready, nil, "no", want{reason: v1alpha1.ReasonInvalidInput}},
		"a mirrored run is reported":                             {[]func(*run){mirrored}, ready, pending(), "", want{reason: v1alpha1.ReasonPending}},
		"a mirrored run keeps its status while Postgres is down": {[]func(*run){mirrored}, backend.State{Known: true, Reason: v1alpha1.ReasonUnreachable}, nil, "", want{}},
		"a run whose row is gone is not started again":           {[]func(*run){mirrored}, ready, nil, "", want{reason: v1alpha1.ReasonRunMissing}},
		"cancel":                {[]func(*run){mirrored, cancel}, ready, pending(), "", want{action: runCancel}},
		"cancel is done once":   {[]func(*run){mirrored, cancel}, ready, pending(canceled), "", want{reason: v1alpha1.ReasonCanceled}},
		"cancel before suspend": {[]func(*run){mirrored, cancel, suspend}, ready, pending(suspended), "", want{action: runCancel}},
		"an object that waits for a finalizer cancels": {[]func(*run){mirrored, deleting}, ready, pending(), "", want{action: runCancel}},
		"suspend":              {[]func(*run){mirrored, suspend}, ready, pending(), "", want{action: runSuspend}},
		"suspend is done once": {[]func(*run){mirrored, suspend}, ready, pending(suspended), "", want{reason: v1alpha1.ReasonSuspended}},
		"resume":               {[]func(*run){mirrored}, ready, pending(suspended), "", want{action: runResume}},
		"an attached run does not resume another's":         {[]func(*run){mirrored, func(r *run) { r.UID = "other" }}, ready, pending(suspended), "", want{reason: v1alpha1.ReasonSuspended}},
		"an attached run that is deleted cancels nothing":   {[]func(*run){mirrored, deleting, func(r *run) { r.UID = "other" }}, ready, pending(), "", want{reason: v1alpha1.ReasonPending}},
		"an ended run stays":                                {[]func(*run){ended}, ready, nil, "", want{}},
		"an ended run takes note of its spec":               {[]func(*run){ended, func(r *run) { r.Generation = 2 }}, ready, nil, "", want{reason: "none"}},
		"ttl in the future":                                 {[]func(*run){ended, ttl(90)}, ready, nil, "", want{requeue: 30 * time.Second}},
		"ttl counts from the object, for a run of long ago": {[]func(*run){ended, ttl(60), func(r *run) { r.CreationTimestamp = metav1.Time{Time: noon.Add(-time.Second)} }}, ready, nil, "", want{requeue: 59 * time.Second}},
		"ttl is over": {[]func(*run){ended, ttl(60)}, ready, nil, "", want{action: runDelete}},
	}
	for name, test := range tests {
		object := newTestRun("order", test.run...)
		if object.UID == "" {
			object.UID = "uid"
		}
		object.Generation = max(object.Generation, 1)
		plan := planRun(runSeen{Run: object, Backend: test.backend, RunID: object.Status.RunID, Row: test.row, Refused: test.refused, Now: noon})
		got := want{action: plan.Action, requeue: plan.RequeueAfter}
		if plan.Status != nil {
			if got.reason = conditionReason(plan.Status.Conditions); got.reason == "" {
				got.reason = "none"
			}
		}
		if got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}

// What a worker that lives has begun or ended it reports by itself, and once.
func TestPlanRun_WaitsForTheWorkersFirstReport(t *testing.T) {
	t.Parallel()
	object := newTestRun("order", func(r *run) { r.UID, r.Generation = "uid", 1 })
	ref := openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{UID: "uid", Generation: 1}}.Encode()
	begun := openworkflow.Run{
		ID: "uid", Status: openworkflow.RunRunning, Attempts: 1, WorkerID: new("a.b.1"), Context: ref,
		StartedAt: &noon, CreatedAt: noon, UpdatedAt: noon,
	}
	ended := begun
	ended.Status, ended.FinishedAt = openworkflow.RunCompleted, new(noon.Add(20*time.Second))
	type want struct {
		state   v1alpha1.RunState // that is reported
		await   time.Duration
		overdue bool
	}
	for name, test := range map[string]struct {
		row    openworkflow.Run
		change func(*runSeen)
		want   want
	}{
		"begun":                          {begun, nil, want{await: 5 * time.Second}},
		"ended, not for long":            {ended, func(s *runSeen) { s.Now = noon.Add(52 * time.Second) }, want{await: 3 * time.Second}},
		"ended, and no report":           {ended, func(s *runSeen) { s.Now = noon.Add(55 * time.Second) }, want{state: v1alpha1.RunCompleted, overdue: true}},
		"ended, while reports take long": {ended, func(s *runSeen) { s.Now, s.ReportDelay = noon.Add(80*time.Second), time.Minute }, want{await: 30 * time.Second}},
		"ended, and others' are later":   {ended, func(s *runSeen) { s.Now, s.ReportDelay = noon.Add(65*time.Second), 10*time.Second }, want{state: v1alpha1.RunCompleted, overdue: true}},
		"its worker has died":            {begun, func(s *runSeen) { s.WorkerReports = false }, want{state: v1alpha1.RunRunning}},
		"its spec has changed":           {begun, func(s *runSeen) { s.Run = newTestRun("order", func(r *run) { r.UID, r.Generation = "uid", 2 }) }, want{state: v1alpha1.RunRunning}},
		"another object's run":           {begun, func(s *runSeen) { s.Run = newTestRun("order", func(r *run) { r.UID, r.Generation = "u", 1 }) }, want{state: v1alpha1.RunRunning}},
		"inserted a moment ago":          {begun, func(s *runSeen) { s.Row, s.JustInserted, s.FirstReport = nil, true, 2*time.Second }, want{await: 2 * time.Second}},
		"inserted while reports take long": {begun, func(s *runSeen) {
			s.Row, s.JustInserted, s.FirstReport, s.ReportDelay = nil, true, 2*time.Second, 10*time.Second
		}, want{await: 12 * time.Second}},
		"reported, and looked at": {ended, func(s *runSeen) {
			s.Run = newTestRun("order", func(r *run) { r.UID, r.Generation, r.Status.RunID = "uid", 1, "uid" })
		}, want{state: v1alpha1.RunCompleted}},
		"not begun by any of them": {openworkflow.Run{ID: "uid", Status: openworkflow.RunPending, Context: ref}, nil, want{state: v1alpha1.RunPending}},
	} {
		seen := runSeen{Run: object, RunID: "uid", Row: &test.row, Backend: backend.State{Known: true, Ready: true}, WorkerReports: true, Now: noon}
		if test.row.WorkerID == nil {
			seen.WorkerReports = false
		}
		if test.change != nil {
			test.change(&seen)
		}
		plan := planRun(seen)
		got := want{await: plan.ExpectReportWithin, overdue: plan.Overdue}
		if plan.Status != nil {
			got.state = plan.Status.State
		}
		if got != test.want {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}

func TestRunStatus_KeepsTransitionTimes(t *testing.T) {
	t.Parallel()
	row := &openworkflow.Run{ID: "uid", Status: openworkflow.RunRunning, WorkerID: new("a.b.1"), Attempts: 1, StartedAt: &noon, CreatedAt: noon, UpdatedAt: noon}
	object := newTestRun("order")
	object.Status = runStatus(runSeen{Run: object, Row: row, Worker: "pod-1"})
	row.UpdatedAt = noon.Add(time.Minute) // a heartbeat
	again := runStatus(runSeen{Run: object, Row: row})
	if !sameStatus(&object.Status, &again) {
		t.Errorf("a heartbeat changes the status:\n%s", cmp.Diff(object.Status, again))
	}
}

func TestNoWorker(t *testing.T) {
	t.Parallel()
	pool := func(name string, change func(*v1alpha1.WorkerPool)) v1alpha1.WorkerPool {
		p := newPool(name)
		p.Status.ReadyReplicas = new(int32(1))
		if change != nil {
			change(p)
		}
		return *p
	}
	worker := func(pool string, workflows ...openworkflow.Definition) store.Worker {
		return store.Worker{Pool: pool, Workflows: workflows}
	}
	v2 := new("2")
	serves := func(ready int32) v1alpha1.WorkerPool {
		return pool("ts", func(p *v1alpha1.WorkerPool) {
			p.Spec.Workflows, p.Status.ReadyReplicas = []v1alpha1.ServedWorkflow{{Name: "x", Version: "2"}}, &ready
		})
	}
	tests := map[string]struct {
		version *string
		due     time.Duration
		pools   []v1alpha1.WorkerPool
		workers []store.Worker
		want    string
	}{
		"served":                {v2, time.Hour, nil, []store.Worker{worker("a", openworkflow.Definition{Name: "x", Version: v2})}, ""},
		"patience":              {v2, 2 * time.Second, nil, nil, ""},
		"not due":               {v2, -time.Hour, nil, nil, ""},
		"no pools":              {nil, time.Hour, nil, nil, `no worker serves workflow "x"; there is no WorkerPool for Backend "default" in this namespace`},
		"no fallback":           {nil, time.Hour, []v1alpha1.WorkerPool{pool("a", nil)}, []store.Worker{worker("a", openworkflow.Definition{Name: "x", Version: v2}, openworkflow.Definition{Name: "checkout"})}, `no worker serves workflow "x"; pools: a serves checkout, x@2`},
		"declared and ready":    {v2, time.Hour, []v1alpha1.WorkerPool{serves(1)}, nil, ""},
		"declared, but no pods": {v2, time.Hour, []v1alpha1.WorkerPool{serves(0)}, nil, `no worker serves workflow "x" version "2"; pools: ts serves x@2 (no pod is ready)`},
		"scaled to 0": {nil, time.Hour, []v1alpha1.WorkerPool{pool("a", func(p *v1alpha1.WorkerPool) {
			p.Spec.Replicas, p.Status.ReadyReplicas = new(int32(0)), nil
		})}, nil, `no worker serves workflow "x"; pools: a serves nothing (scaled to 0)`},
	}
	for name, test := range tests {
		row := &openworkflow.Run{WorkflowName: "x", Version: test.version, Status: openworkflow.RunPending, AvailableAt: new(noon.Add(-test.due))}
		if got := newFleet("default", test.pools, test.workers).noWorker(row, noon); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestEvaluatePool(t *testing.T) {
	t.Parallel()
	ready := backend.State{Known: true, Ready: true}
	deployment := func(updated, total, available int32) *appsv1.Deployment {
		return &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Generation: 2},
			Spec:       appsv1.DeploymentSpec{Replicas: new(int32(2))},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 2, UpdatedReplicas: updated, Replicas: total,
				AvailableReplicas: available, ReadyReplicas: available},
		}
	}
	unschedulable := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/1 nodes: Insufficient cpu"},
	}}}
	waiting := func(reason, message string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{
			{Name: "worker", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}},
		}}}
	}
	stuck := deployment(1, 2, 1)
	stuck.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse}}
	tests := map[string]struct {
		seen poolSeen
		want poolState
	}{
		"template first":                      {poolSeen{Rejected: "no"}, poolState{stalled: true, reason: v1alpha1.ReasonInvalidTemplate, message: "no"}},
		"then the Backend":                    {poolSeen{Backend: backend.State{Known: true, Reason: "Unreachable", Message: "gone"}, Deployment: deployment(2, 2, 2)}, poolState{reason: v1alpha1.ReasonBackendNotReady, message: `Backend "default" is not ready (Unreachable): gone`}},
		"no Deployment":                       {poolSeen{Backend: ready}, poolState{reason: v1alpha1.ReasonRollingOut, message: "the Deployment is being created"}},
		"complete":                            {poolSeen{Backend: ready, Deployment: deployment(2, 2, 2)}, poolState{ready: true, reason: v1alpha1.ReasonPodsReady, message: "2 of 2 pods are ready"}},
		"what was complete before the change": {poolSeen{Backend: ready, Deployment: deployment(2, 2, 2), Applied: 3}, poolState{reason: v1alpha1.ReasonRollingOut, message: "2 of 2 pods are ready, 2 are up to date"}},
		"old pods left":                       {poolSeen{Backend: ready, Deployment: deployment(2, 3, 3)}, poolState{reason: v1alpha1.ReasonRollingOut, message: "3 of 2 pods are ready, 2 are up to date"}},
		"timed out":                           {poolSeen{Backend: ready, Deployment: stuck}, poolState{stalled: true, reason: v1alpha1.ReasonRollingOut, message: "1 of 2 pods are ready, 1 are up to date"}},
		"unschedulable":                       {poolSeen{Backend: ready, Deployment: deployment(2, 2, 1), Pods: []corev1.Pod{unschedulable}}, poolState{reason: v1alpha1.ReasonPodsUnschedulable, message: "pod p fits on no node: 0/1 nodes: Insufficient cpu"}},
		"not starting":                        {poolSeen{Backend: ready, Deployment: deployment(2, 2, 1), Pods: []corev1.Pod{waiting("CreateContainerConfigError", "no key")}}, poolState{reason: v1alpha1.ReasonContainerNotStarting, message: "pod p cannot start container worker: CreateContainerConfigError: no key"}},
		"just creating":                       {poolSeen{Backend: ready, Deployment: deployment(2, 2, 1), Pods: []corev1.Pod{waiting("ContainerCreating", "")}}, poolState{reason: v1alpha1.ReasonRollingOut, message: "1 of 2 pods are ready, 2 are up to date"}},
	}
	for name, test := range tests {
		test.seen.Pool = newPool("shop", func(p *v1alpha1.WorkerPool) { p.Spec.Replicas = new(int32(2)) })
		if diff := cmp.Diff(test.want, evaluatePool(test.seen), cmp.AllowUnexported(poolState{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWorkerEnded(t *testing.T) {
	t.Parallel()
	terminated := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "c"}}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
	tests := map[string]struct {
		name        string
		state, last corev1.ContainerState
		want        bool
	}{
		"running":               {"worker", running, corev1.ContainerState{}, false},
		"starting":              {"worker", waiting, corev1.ContainerState{}, false},
		"terminated":            {"worker", terminated, corev1.ContainerState{}, true},
		"waiting to restart":    {"worker", waiting, terminated, true},
		"running again":         {"worker", running, terminated, false}, // it released its earlier life's leases itself
		"a sidecar that failed": {"sidecar", terminated, corev1.ContainerState{}, false},
	}
	for name, test := range tests {
		pod := podOf("shop", "p")
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: test.name, State: test.state, LastTerminationState: test.last}}
		if got := workerEnded(pod) != ""; got != test.want {
			t.Errorf("%s: %t, want %t", name, got, test.want)
		}
	}
}
