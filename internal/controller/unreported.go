package controller

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// begunRuns has, by name, the objects whose rows are there though their status does not
// say so yet: those rows are read, not inserted again. It waits for each to be reported,
// outside the work queue, as nearly all are.
type begunRuns struct {
	// late is called with the name of an object that was not reported in time.
	late func(types.NamespacedName)

	mu   sync.Mutex
	runs map[types.NamespacedName]begunRun
}

// begunRun is an object whose row is there, or about to be.
type begunRun struct {
	uid     types.UID
	backend string
	timer   *time.Timer // nil as long as nobody awaits the report
}

// begin adds an object whose row may be there from now on. Its report may come before
// whoever inserts the row hears of that.
func (b *begunRuns) begin(key types.NamespacedName, uid types.UID, backend string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.runs == nil {
		b.runs = map[types.NamespacedName]begunRun{}
	}
	b.runs[key] = begunRun{uid: uid, backend: backend}
}

// await waits for the report of an object that has begun, unless it has come.
func (b *begunRuns) await(key types.NamespacedName, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if run, ok := b.runs[key]; ok {
		run.timer = time.AfterFunc(wait, func() { b.late(key) })
		b.runs[key] = run
	}
}

// take returns what is known of the row of the object of this name, and forgets it.
func (b *begunRuns) take(key types.NamespacedName) begunRun {
	b.mu.Lock()
	defer b.mu.Unlock()
	run := b.runs[key]
	b.forget(key, run)
	return run
}

// reported forgets an object whose status says that its row is there.
func (b *begunRuns) reported(key types.NamespacedName, uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if run := b.runs[key]; run.uid == uid {
		b.forget(key, run)
	}
}

func (b *begunRuns) forget(key types.NamespacedName, run begunRun) {
	if run.timer != nil {
		run.timer.Stop()
	}
	delete(b.runs, key)
}
