package controller

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// keptSignals are the signals that wait: in the database until a run waits for them, and before that
// until the run that they name was started. They are in memory, so that a Backend for which none is
// kept costs nothing. A manager that starts reconciles each once, which fills it. Its methods may be
// called concurrently.
type keptSignals struct {
	mu        sync.Mutex
	backends  map[types.NamespacedName]*backendSignals
	of        map[types.UID]*backendSignals
	byTarget  map[types.NamespacedName]map[types.NamespacedName]bool // signals, by the run that they name
	targets   map[types.NamespacedName]types.NamespacedName          // runs, by signal
	reconcile func(types.NamespacedName)
}

// backendSignals are the signals that are kept in one database. They are forgotten when none is kept
// and no sweep runs over the database.
type backendSignals struct {
	key    types.NamespacedName
	sweeps int // guarded by keptSignals.mu

	// mu may be locked while keptSignals.mu is held.
	mu    sync.Mutex
	names map[types.UID]types.NamespacedName
	// decisions are those of them about steps that have not asked for an approval yet.
	decisions map[types.UID]store.ApprovalStep
	// look is set when one may be due, and changed when the first was added or the last removed.
	look, changed wake.Flag
}

func newKeptSignals() *keptSignals {
	return &keptSignals{
		backends: map[types.NamespacedName]*backendSignals{},
		of:       map[types.UID]*backendSignals{},
		byTarget: map[types.NamespacedName]map[types.NamespacedName]bool{},
		targets:  map[types.NamespacedName]types.NamespacedName{},
	}
}

// onSettled sets what has a signal reconciled.
func (k *keptSignals) onSettled(f func(types.NamespacedName)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.reconcile = f
}

// settled has a signal reconciled, of which the database knows something new.
func (k *keptSignals) settled(name types.NamespacedName) {
	k.mu.Lock()
	f := k.reconcile
	k.mu.Unlock()
	if f != nil {
		f(name)
	}
}

// use returns the signals of a Backend, for the sweeps over its database. Release ends that use.
func (k *keptSignals) use(key types.NamespacedName) (b *backendSignals, release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b = k.inLocked(key)
	b.sweeps++
	return b, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		b.sweeps--
		k.dropUnusedLocked(b)
	}
}

func (k *keptSignals) inLocked(key types.NamespacedName) *backendSignals {
	b := k.backends[key]
	if b == nil {
		b = &backendSignals{
			key:   key,
			names: map[types.UID]types.NamespacedName{}, decisions: map[types.UID]store.ApprovalStep{}, look: wake.New(), changed: wake.New(),
		}
		k.backends[key] = b
	}
	return b
}

func (k *keptSignals) dropUnusedLocked(b *backendSignals) {
	if b.sweeps == 0 && b.isEmpty() {
		delete(k.backends, b.key)
	}
}

// add adds a signal that the database keeps.
func (k *keptSignals) add(key types.NamespacedName, uid types.UID, name types.NamespacedName) {
	k.addTo(key, uid, name, nil)
}

// addDecision adds a decision about a step that has not asked for an approval yet.
func (k *keptSignals) addDecision(key types.NamespacedName, uid types.UID, name types.NamespacedName, step store.ApprovalStep) {
	k.addTo(key, uid, name, &step)
}

func (k *keptSignals) addTo(key types.NamespacedName, uid types.UID, name types.NamespacedName, decision *store.ApprovalStep) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.inLocked(key)
	k.of[uid] = b
	k.forgetLocked(name)
	b.mu.Lock()
	_, isKnown := b.names[uid]
	b.names[uid] = name
	if decision != nil {
		b.decisions[uid] = *decision
	}
	isFirst := len(b.names) == 1
	b.mu.Unlock()
	if isFirst {
		b.changed.Set()
	}
	if !isKnown {
		b.look.Set() // a run may have begun to wait before this
	}
}

// remove removes a signal that waits no more.
func (k *keptSignals) remove(uid types.UID, name types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.of[uid]
	delete(k.of, uid)
	k.forgetLocked(name)
	if b == nil {
		return
	}
	b.mu.Lock()
	delete(b.names, uid)
	delete(b.decisions, uid)
	isEmpty := len(b.names) == 0
	b.mu.Unlock()
	if isEmpty {
		b.changed.Set()
		k.dropUnusedLocked(b)
	}
}

// await has a signal reconciled when a run was started.
func (k *keptSignals) await(run, signal types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byTarget[run] == nil {
		k.byTarget[run] = map[types.NamespacedName]bool{}
	}
	k.byTarget[run][signal], k.targets[signal] = true, run
}

// forget ends what await has begun.
func (k *keptSignals) forget(signal types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.forgetLocked(signal)
}

func (k *keptSignals) forgetLocked(signal types.NamespacedName) {
	run, ok := k.targets[signal]
	if !ok {
		return
	}
	delete(k.targets, signal)
	if delete(k.byTarget[run], signal); len(k.byTarget[run]) == 0 {
		delete(k.byTarget, run)
	}
}

// awaiting returns the signals that wait until a run was started.
func (k *keptSignals) awaiting(run types.NamespacedName) (signals []types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.byTarget[run] {
		signals = append(signals, name)
	}
	return signals
}

// name returns the name of a signal's object, if it is kept.
func (b *backendSignals) name(uid types.UID) (name types.NamespacedName, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	name, ok = b.names[uid]
	return name, ok
}

// waitingDecisions returns the decisions, and the steps that they are about.
func (b *backendSignals) waitingDecisions() (uids []types.UID, steps []store.ApprovalStep) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid, step := range b.decisions {
		uids, steps = append(uids, uid), append(steps, step)
	}
	return uids, steps
}

func (b *backendSignals) isEmpty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.names) == 0
}
