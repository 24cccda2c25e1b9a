package controller

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestAddLowPriority_ComesAfterWhatIsNew(t *testing.T) {
	t.Parallel()
	queue := priorityqueue.New[runRequest]("test-" + t.Name())
	defer queue.ShutDown()
	addLowPriority(queue, runRequest{NamespacedName: types.NamespacedName{Name: "late"}})
	queue.Add(runRequest{NamespacedName: types.NamespacedName{Name: "new"}})
	for _, want := range []string{"new", "late"} {
		if got, _ := queue.Get(); got.Name != want {
			t.Errorf("got %q, want %q", got.Name, want)
		}
	}
}

func TestReportTracker_TimesOutOnlyWithoutAReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		type timeout struct {
			name  string
			after time.Duration
		}
		timeouts := make(chan timeout, 5)
		reports := NewReportTracker()
		reports.OnTimeout = func(key types.NamespacedName) { timeouts <- timeout{key.Name, time.Since(start)} }
		named := func(name string) types.NamespacedName { return types.NamespacedName{Namespace: "shop", Name: name} }
		for _, name := range []string{"reported", "created anew", "removed", "overdue", "later", "reported at once", "released"} {
			reports.Track(named(name), "uid", "default")
		}
		reports.Confirm(named("reported at once"), "uid")
		for _, name := range []string{"reported", "created anew", "removed", "overdue", "reported at once"} {
			reports.ExpectWithin(named(name), 2*time.Second)
		}
		reports.ExpectWithin(named("later"), 3*time.Second)
		reports.ExpectWithin(named("released"), 0)
		for _, name := range []string{"later", "released", "unknown"} {
			reports.Release(named(name))
		}
		reports.Confirm(named("reported"), "uid")
		reports.Confirm(named("created anew"), "another")
		reports.Confirm(named("unknown"), "uid")
		if uid, backend, wait := reports.Remove(named("removed")); uid != "uid" || backend != "default" || wait != 2*time.Second {
			t.Errorf("removed %q of %q, expected for another %v", uid, backend, wait)
		}
		if uid, _, wait := reports.Remove(named("removed")); uid != "" || wait != 0 {
			t.Errorf("removed %q a second time, expected for another %v", uid, wait)
		}
		got := []timeout{<-timeouts, <-timeouts, <-timeouts}
		slices.SortFunc(got[:2], func(a, b timeout) int { return len(b.name) - len(a.name) })
		want := []timeout{{"created anew", 2 * time.Second}, {"overdue", 2 * time.Second}, {"later", 3 * time.Second}}
		if !slices.Equal(got, want) {
			t.Errorf("timeouts are %v, want %v", got, want)
		}
		synctest.Wait()
		if len(timeouts) > 0 {
			t.Errorf("%v has timed out, too", <-timeouts)
		}
		if uid, _, wait := reports.Remove(named("overdue")); uid != "uid" || wait != 0 {
			t.Errorf("after its timeout, the object %q is left, expected for another %v", uid, wait)
		}
		if n := len(reports.objects); n != 2 { // "created anew" and "later"
			t.Errorf("%d objects are left: %v", n, reports.objects)
		}
	})
}

// heldBy returns a run that the worker with this id holds.
func heldBy(workerID string) *openworkflow.Run { return &openworkflow.Run{WorkerID: &workerID} }

func TestReportDelay_OnlyOfWorkersThatReport(t *testing.T) {
	t.Parallel()
	reports := NewReportTracker()
	workers := []store.Worker{{PodUID: "a", Process: "1", PodName: "pod-a"}, {PodUID: "b", Process: "1"}}
	for name, test := range map[string]struct {
		run  *openworkflow.Run
		want bool
	}{
		"a live worker in a pod":                {heldBy("a.1.7"), true},
		"the previous process of its container": {heldBy("a.0.7"), false},
		"a worker outside of a pod":             {heldBy("b.1.7"), false},
		"OpenWorkflow's own worker":             {heldBy("3f0c1c5e-0000-4000-8000-000000000000"), false},
		"no worker":                             {&openworkflow.Run{}, false},
		"a worker that is not live":             {heldBy("c.1.7"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, got := reports.ReportDelay(test.run, workers, noon); got != test.want {
				t.Errorf("it reports: %t, want %t", got, test.want)
			}
		})
	}
	reports.MarkUnresponsive(heldBy("a.1.7"), noon)
	if _, ok := reports.ReportDelay(heldBy("a.1.8"), workers, noon.Add(time.Minute)); ok {
		t.Error("an unresponsive worker is waited for")
	}
	if _, ok := reports.ReportDelay(heldBy("a.1.9"), workers, noon.Add(ignoreFor)); !ok {
		t.Error("a worker that was unresponsive once is never waited for again")
	}
}

// A worker without the right to report delays the status of some runs, but ever fewer.
func TestReportTracker_WaitsEverLessOftenForAWorkerThatNeverReports(t *testing.T) {
	t.Parallel()
	reports := NewReportTracker()
	workers := []store.Worker{{PodUID: "a", Process: "1", PodName: "pod-a"}}
	held := heldBy("a.1.7")
	var waits []time.Duration
	waitsAt := func(at time.Time) bool {
		_, ok := reports.ReportDelay(held, workers, at)
		return ok
	}
	last := noon
	for at := noon; at.Before(noon.Add(5 * time.Hour)); at = at.Add(time.Minute) {
		if waitsAt(at) {
			waits, last = append(waits, at.Sub(last)), at
			reports.MarkUnresponsive(held, at)
			reports.MarkUnresponsive(held, at) // another run
		}
		reports.Prune(at)
	}
	if want := []time.Duration{0, 5, 10, 20, 40, 60, 60, 60}; !slices.EqualFunc(waits, want, func(a, b time.Duration) bool { return a == b*time.Minute }) {
		t.Errorf("it is waited for after %v, want minutes %d", waits, want)
	}
	now := metav1.NewTime(last.Add(maxIgnoreFor))
	reports.Observe(&v1alpha1.WorkflowRunStatus{Worker: "pod-a", FinishedAt: &now}, workers, now.Time, now.Time)
	reports.MarkUnresponsive(held, now.Time)
	if !waitsAt(now.Add(ignoreFor)) {
		t.Error("a report does not end the growth")
	}
}

// While reports queue up in a worker, the manager waits as long as those take that
// arrive, and no longer once none arrive.
func TestReportDelay_FollowsTheReportsThatArrive(t *testing.T) {
	t.Parallel()
	reports := NewReportTracker()
	workers := []store.Worker{{PodUID: "a", Process: "1", PodName: "pod-a"}, {PodUID: "b", Process: "1", PodName: "pod-b"}}
	held := heldBy("a.1.7")
	at := noon
	expect := func(what string, own, slowest time.Duration) {
		t.Helper()
		if delay, ok := reports.ReportDelay(held, workers, at); !ok || delay != own {
			t.Errorf("%s: the worker's delay is %s, %t, want %s", what, delay, ok, own)
		}
		if delay := reports.SlowestReportDelay(workers, at); delay != slowest {
			t.Errorf("%s: the longest delay is %s, want %s", what, delay, slowest)
		}
	}
	arrive := func(worker string, age time.Duration) {
		of := metav1.NewTime(at.Add(-age))
		run := newTestRun("order", func(r *run) {
			r.Status = v1alpha1.WorkflowRunStatus{State: v1alpha1.RunCompleted, Worker: worker, FinishedAt: &of}
		})
		if _, err := stripRun(run); err != nil { // as the cache does
			t.Fatal(err)
		}
		reports.Observe(&run.Status, workers, at, at)
	}
	expect("no report", 0, 0)
	arrive("pod-a", time.Second)
	expect("a report at once", 0, 0)
	arrive("pod-b", 31*time.Second)
	expect("another worker's report after 31 s", 0, 30*time.Second)
	arrive("pod-a", 51*time.Second)
	expect("a report after 51 s", 50*time.Second, 50*time.Second)
	at = at.Add(10 * time.Second)
	arrive("pod-a", time.Second)
	expect("a report that overtook others", 40*time.Second, 40*time.Second)
	arrive("pod-c", time.Hour)
	arrive("", time.Hour)
	expect("reports of workers that are not live", 40*time.Second, 40*time.Second)
	at = at.Add(reportTimeout + time.Second)
	expect("no report for a while", 0, 0)
	arrive("pod-a", time.Hour)
	expect("a report after an hour", maxReportDelay, maxReportDelay)

	reports.MarkUnresponsive(held, at)
	arrive("pod-a", 51*time.Second)
	if _, ok := reports.ReportDelay(held, workers, at); ok || reports.SlowestReportDelay(workers, at) != 0 {
		t.Error("the manager's own report counts as one of an unresponsive worker")
	}
	reports.Prune(at)
	if n := len(reports.workers); n != 1 {
		t.Errorf("%d workers are remembered, want the unresponsive one", n)
	}
	reports.Prune(at.Add(ignoreFor + maxIgnoreFor))
	if n := len(reports.workers); n != 0 {
		t.Errorf("%d workers are remembered of which nothing is known", n)
	}
}
