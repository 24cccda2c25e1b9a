package controller

import (
	"maps"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// reportTimeout, plus the current delay of the worker's reports, is the time within which
	// a live worker must report the start or the end of a run. It must be longer than the
	// worker's own giveUpAfter (package reporter), so that both never write at once.
	reportTimeout = 35 * time.Second
	// maxReportDelay bounds the delay of reports that is added to a wait.
	maxReportDelay = 10 * time.Minute
	// ignoreFor is how long the manager does not wait for a worker that missed a report. It doubles,
	// up to maxIgnoreFor, when the worker misses the next one as well.
	ignoreFor, maxIgnoreFor = 5 * time.Minute, time.Hour
	// A wait is interrupted after recheckPause plus the delay, after maxRecheckPause at the
	// latest, to check the run again.
	recheckPause, maxRecheckPause = 5 * time.Second, 30 * time.Second
)

// ReportTracker knows which runs a worker is about to report, and how long to wait for
// that. A worker of ours in a pod writes the status of the runs that it executes, so that
// each status is written once. The manager writes only what does not arrive in time.
//
// An object whose row is in the database, and whose status does not show that yet:
//
//	              Track                     ExpectWithin(d)
//	untracked ──────────────> row may exist ───────────────> report expected
//	    ^                        │                             │     │
//	    │  Confirm (a status     │                             │     │ d has passed:
//	    │  shows the row),       │                             │     │ OnTimeout queues
//	    └── Release, Remove ─────┴─────────────────────────────┘     │ the object
//	    ^                                                            │
//	    └── Remove, by the reconcile of the queued object ───────────┘
//
// A row that may exist is read instead of inserted. How long a report may take:
//
//	the row was just inserted              FirstReport + delay
//	a live worker has claimed or ended it  (started_at | finished_at) + 35 s + delay - now
//	until the run is checked again         min(the wait, 5 s + delay, 30 s)
//
// FirstReport is 2 s by default (Intervals, sweep.go).
//
// The delay is that of the run's worker or, before a claim, of the slowest live one. When
// many runs end at once, their reports queue up in the worker, so a wait follows the
// reports that arrive:
//
//	delay = max(age of the report - 1 s, previous delay - time since the previous report)
//
// So a delay falls by one second each second, and one early report does not end it. It is
// between 0 and 10 min, and 0 when no report has arrived for 35 s. A worker that misses a
// wait is unresponsive for 5 min, as it may lack the right or the network to report: the
// manager writes the status of its runs at once. Each further miss in a row doubles that time, up
// to an hour.
type ReportTracker struct {
	// OnTimeout is called with the name of an object that was not reported in time.
	OnTimeout func(types.NamespacedName)

	mu      sync.Mutex
	objects map[types.NamespacedName]trackedObject
	workers map[string]workerReports // by process
}

// trackedObject is an object whose row may exist.
type trackedObject struct {
	uid     types.UID
	backend string
	timer   *time.Timer // nil until a report is expected
	until   time.Time   // when the timer fires
}

// workerReports is what is known of one worker process.
type workerReports struct {
	// ignoreUntil is the time until which the worker is not waited for, and misses how often in a
	// row it was not.
	ignoreUntil time.Time
	misses      int
	// lastAt is when a report arrived last, and delay the delay then.
	lastAt time.Time
	delay  time.Duration
}

// NewReportTracker returns an empty tracker.
func NewReportTracker() *ReportTracker {
	return &ReportTracker{objects: map[types.NamespacedName]trackedObject{}, workers: map[string]workerReports{}}
}

// Track adds an object whose row may exist from now on. It precedes the insert: the
// report may arrive before the insert has returned.
func (t *ReportTracker) Track(key types.NamespacedName, uid types.UID, backend string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.objects[key] = trackedObject{uid: uid, backend: backend}
}

// ExpectWithin calls OnTimeout after the wait, unless the report arrives before that. It
// does nothing for a wait of 0, or if the report has arrived already.
func (t *ReportTracker) ExpectWithin(key types.NamespacedName, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if object, ok := t.objects[key]; ok && wait > 0 {
		object.timer = time.AfterFunc(wait, func() { t.OnTimeout(key) })
		object.until = time.Now().Add(wait)
		t.objects[key] = object
	}
}

// Confirm removes an object whose status shows that its row exists.
func (t *ReportTracker) Confirm(key types.NamespacedName, uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.objects[key].uid == uid {
		t.removeLocked(key)
	}
}

// Release removes an object unless its report is expected.
func (t *ReportTracker) Release(key types.NamespacedName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.objects[key].timer == nil {
		t.removeLocked(key)
	}
}

// Remove removes the object of this name. It returns its uid and Backend, or nothing, and how
// much longer its report is expected.
func (t *ReportTracker) Remove(key types.NamespacedName) (uid types.UID, backend string, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	object := t.removeLocked(key)
	return object.uid, object.backend, max(0, time.Until(object.until))
}

func (t *ReportTracker) removeLocked(key types.NamespacedName) trackedObject {
	object := t.objects[key]
	if object.timer != nil {
		object.timer.Stop()
	}
	delete(t.objects, key)
	return object
}

// ReportDelay returns how long the run's worker takes to report at the moment, and whether
// it reports at all. It does if it holds the run or has completed it, is one of these live
// workers, has announced the name of its pod (as those do that report), and is not
// unresponsive.
func (t *ReportTracker) ReportDelay(run *openworkflow.Run, workers []store.Worker, now time.Time) (delay time.Duration, ok bool) {
	process, ok := processOf(run)
	if !ok {
		return 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	reports := t.workers[process]
	if now.Before(reports.ignoreUntil) {
		return 0, false
	}
	for _, w := range workers {
		if w.PodName != "" && processOfWorker(w) == process {
			return reports.delayAt(now), true
		}
	}
	return 0, false
}

// SlowestReportDelay returns the longest delay of these workers.
func (t *ReportTracker) SlowestReportDelay(workers []store.Worker, now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	var delay time.Duration
	for _, w := range workers {
		delay = max(delay, t.workers[processOfWorker(w)].delayAt(now))
	}
	return delay
}

// Observe learns the delay of a worker from a status that shows the start or the end of a
// run for the first time. ServerNow is now by the clock of the database, as the times in a status
// are.
func (t *ReportTracker) Observe(status *v1alpha1.WorkflowRunStatus, workers []store.Worker, now, serverNow time.Time) {
	of := status.StartedAt
	if status.FinishedAt != nil {
		of = status.FinishedAt
	}
	if of == nil || status.Worker == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range workers {
		if w.PodName == status.Worker {
			process := processOfWorker(w)
			t.workers[process] = t.workers[process].observe(serverNow.Sub(of.Time), now)
		}
	}
}

// MarkUnresponsive remembers that the run's worker did not report it in time.
func (t *ReportTracker) MarkUnresponsive(run *openworkflow.Run, now time.Time) {
	process, ok := processOf(run)
	if !ok {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.workers[process]
	if now.Before(r.ignoreUntil) { // another run of the same miss
		return
	}
	wait := min(ignoreFor<<min(r.misses, 10), maxIgnoreFor)
	t.workers[process] = workerReports{ignoreUntil: now.Add(wait), misses: r.misses + 1}
}

// Prune forgets workers of which nothing is known any more.
func (t *ReportTracker) Prune(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.workers, func(_ string, r workerReports) bool {
		remembered := r.ignoreUntil
		if r.misses > 0 {
			remembered = remembered.Add(maxIgnoreFor)
		}
		return !now.Before(remembered) && now.Sub(r.lastAt) > reportTimeout
	})
}

// observe returns what is known after a report of this age has arrived. The reports of an
// unresponsive worker's runs are the manager's own, which say nothing about the worker.
func (r workerReports) observe(age time.Duration, now time.Time) workerReports {
	if now.Before(r.ignoreUntil) {
		return r
	}
	const precision = time.Second // of the times in a status
	// One early report does not end the delay of the others: it may have overtaken them.
	r.delay = max(min(age-precision, maxReportDelay), r.delayAt(now)-now.Sub(r.lastAt), 0)
	r.lastAt, r.misses = now, 0
	return r
}

// delayAt returns the delay of the worker's reports, 0 when none has arrived lately.
func (r workerReports) delayAt(now time.Time) time.Duration {
	if now.Sub(r.lastAt) > reportTimeout {
		return 0
	}
	return r.delay
}

// reportWait returns how much longer the worker that has claimed or ended the run may take
// to report that. When it is 0 the manager reports; overdue says that it does because the
// worker did not.
func (s *runSeen) reportWait() (wait time.Duration, overdue bool) {
	object := s.Row.Object()
	if !s.WorkerReports || object == nil || object.UID != string(s.Run.UID) || object.Generation != s.Run.Generation {
		return 0, false
	}
	since := s.Row.StartedAt
	if s.Row.FinishedAt != nil {
		since = s.Row.FinishedAt
	}
	if since == nil {
		return 0, false
	}
	wait = since.Add(reportTimeout + s.ReportDelay).Sub(s.serverNow())
	return max(wait, 0), wait <= 0
}

// firstReportWait is reportWait for an object whose status does not show its row yet, and
// 0 for others.
func (s *runSeen) firstReportWait() (wait time.Duration, overdue bool) {
	if s.Run.Status.RunID != "" {
		return 0, false
	}
	return s.reportWait()
}

// recheckWithin returns how much of a wait passes before the run is checked again: its
// worker may have died. The pause grows with the delay, as each check is a query and there
// are as many checks as late reports.
func (s *runSeen) recheckWithin(wait time.Duration) time.Duration {
	return min(wait, recheckPause+s.ReportDelay, maxRecheckPause)
}

// processOf returns the part of the run's worker id that all claims of one process share.
func processOf(run *openworkflow.Run) (process string, ok bool) {
	if run.WorkerID == nil {
		return "", false
	}
	i := strings.LastIndexByte(*run.WorkerID, '.')
	if i < 0 { // OpenWorkflow's own worker, which never reports
		return "", false
	}
	return (*run.WorkerID)[:i], true
}

func processOfWorker(w store.Worker) string { return w.PodUID + "." + w.Process }
