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

// begunRun is an object whose row is there.
type begunRun struct {
	uid     types.UID
	backend string
	timer   *time.Timer
}

// await waits for the report of an object's run.
func (b *begunRuns) await(key types.NamespacedName, uid types.UID, backend string, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.runs == nil {
		b.runs = map[types.NamespacedName]begunRun{}
	}
	b.runs[key] = begunRun{uid, backend, time.AfterFunc(wait, func() { b.late(key) })}
}

// take returns what is known of the row of the object of this name, and forgets it.
func (b *begunRuns) take(key types.NamespacedName) begunRun {
	b.mu.Lock()
	defer b.mu.Unlock()
	run := b.runs[key]
	if run.timer != nil {
		run.timer.Stop()
		delete(b.runs, key)
	}
	return run
}

// reported forgets an object whose status says that its row is there.
func (b *begunRuns) reported(key types.NamespacedName, uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if run := b.runs[key]; run.timer != nil && run.uid == uid {
		run.timer.Stop()
		delete(b.runs, key)
	}
}
