package dataapi

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/openworkflow-operator/operator/internal/store"
)

// opened returns the Backends whose databases are open, in the order of their names.
func opened(d *Databases) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for key := range maps.Keys(d.entries) {
		names = append(names, key.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// However many Backends a namespace makes, few databases stay open: those that were used last, and those
// in use.
func TestDatabases_P9_BoundThoseThatStayOpen(t *testing.T) {
	w := setup(t)
	const backends = 6
	for i := range backends {
		w.backend(fmt.Sprintf("b-%d", i), w.url)
	}
	d := &Databases{Backends: cluster.admin, Secrets: cluster.admin, Open: store.Open, MaxOpen: 3}
	use := func(name string, f func()) {
		t.Helper()
		if err := d.use(t.Context(), w.namespace, name, func(open []*database) error {
			if f != nil {
				f()
			}
			return open[0].Ping(t.Context())
		}); err != nil {
			t.Fatal(err)
		}
	}
	use("b-0", func() {
		for i := 1; i < backends; i++ {
			use(fmt.Sprintf("b-%d", i), nil)
		}
		if got := opened(d); got != "b-0 b-4 b-5" {
			t.Errorf("while one is in use, %s are open", got)
		}
	})
	use("b-4", nil)
	use("b-1", nil)
	if got := opened(d); got != "b-1 b-4 b-5" {
		t.Errorf("%s are open", got)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := d.Start(stopped); err != nil || opened(d) != "" {
		t.Errorf("after the end, %s are open: %v", opened(d), err)
	}
}
