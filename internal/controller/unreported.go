package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// unreportedRuns has, by name, the objects whose rows are there though their status does not
// say so yet: those rows are read, not inserted again. It waits for each to be reported,
// outside the work queue, as nearly all are.
type unreportedRuns struct {
	// onTimeout is called with the name of an object that was not reported in time.
	onTimeout func(types.NamespacedName)

	mu   sync.Mutex
	runs map[types.NamespacedName]unreportedRun
}

// unreportedRun is an object whose row is there, or about to be.
type unreportedRun struct {
	uid     types.UID
	backend string
	timer   *time.Timer // nil as long as nobody awaits the report
}

// track adds an object whose row may be there from now on. Its report may come before
// whoever inserts the row hears of that.
func (u *unreportedRuns) track(key types.NamespacedName, uid types.UID, backend string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.runs == nil {
		u.runs = map[types.NamespacedName]unreportedRun{}
	}
	u.runs[key] = unreportedRun{uid: uid, backend: backend}
}

// expectWithin waits for the report of an object that has begun, unless it has come.
func (u *unreportedRuns) expectWithin(key types.NamespacedName, wait time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if run, ok := u.runs[key]; ok {
		run.timer = time.AfterFunc(wait, func() { u.onTimeout(key) })
		u.runs[key] = run
	}
}

// remove returns what is known of the row of the object of this name, and forgets it.
func (u *unreportedRuns) remove(key types.NamespacedName) unreportedRun {
	u.mu.Lock()
	defer u.mu.Unlock()
	run := u.runs[key]
	u.forget(key, run)
	return run
}

// confirm forgets an object whose status says that its row is there.
func (u *unreportedRuns) confirm(key types.NamespacedName, uid types.UID) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if run := u.runs[key]; run.uid == uid {
		u.forget(key, run)
	}
}

func (u *unreportedRuns) forget(key types.NamespacedName, run unreportedRun) {
	if run.timer != nil {
		run.timer.Stop()
	}
	delete(u.runs, key)
}
