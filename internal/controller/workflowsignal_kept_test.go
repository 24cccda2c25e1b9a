package controller

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/internal/store"
)

func keptKey(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "team", Name: name}
}

// TestKeptSignals_P9_BackendsThatAreGoneCostNothing: what is in memory of a Backend goes with its
// sweeps and its last signal, in either order.
func TestKeptSignals_P9_BackendsThatAreGoneCostNothing(t *testing.T) {
	database, signal := keptKey("database"), keptKey("signal")
	tests := map[string]func(k *keptSignals, release func()){
		"without a signal": func(_ *keptSignals, release func()) { release() },
		"the signal first": func(k *keptSignals, release func()) {
			k.add(database, "1", signal)
			k.remove("1", signal)
			release()
		},
		"the sweeps first": func(k *keptSignals, release func()) {
			k.addDecision(database, "1", signal, store.ApprovalStep{})
			release()
			k.remove("1", signal)
		},
		"a signal after the sweeps": func(k *keptSignals, release func()) {
			release()
			k.add(database, "1", signal)
			k.remove("1", signal)
		},
		"a connection that was replaced": func(k *keptSignals, release func()) {
			_, releaseNext := k.use(database)
			release()
			k.add(database, "1", signal)
			k.remove("1", signal)
			releaseNext()
		},
	}
	for name, end := range tests {
		t.Run(name, func(t *testing.T) {
			k := newKeptSignals()
			_, release := k.use(database)
			end(k, release)
			if len(k.backends) != 0 || len(k.of) != 0 {
				t.Errorf("%d Backends and %d signals are in memory, want none", len(k.backends), len(k.of))
			}
		})
	}
}

// TestKeptSignals_P1_SweepsAndSignalsMeet: sweeps that begin before, during or after a signal is
// added see it.
func TestKeptSignals_P1_SweepsAndSignalsMeet(t *testing.T) {
	k := newKeptSignals()
	database, signal := keptKey("database"), keptKey("signal")
	before, releaseBefore := k.use(database)
	k.add(database, "1", signal)
	after, releaseAfter := k.use(database)
	releaseBefore()
	defer releaseAfter()
	for when, b := range map[string]*backendSignals{"before": before, "after": after} {
		if name, ok := b.name("1"); !ok || name != signal {
			t.Errorf("sweeps that began %s it see the signal %v, %v", when, name, ok)
		}
	}
}

func TestDeaths_P9_OldOnesOfForeignWorkersAreForgotten(t *testing.T) {
	d := newDeaths(nil)
	now := time.Now()
	d.addForeign(keptKey("old"), now.Add(-foreignMemory-time.Second))
	d.addForeign(keptKey("lately"), now.Add(-foreignLease))
	d.addForeign(keptKey("new"), now)
	if _, ok := d.lastForeign(keptKey("old")); ok || len(d.foreign) != 2 {
		t.Errorf("in memory: %v, want those within %v", d.foreign, foreignMemory)
	}
}
