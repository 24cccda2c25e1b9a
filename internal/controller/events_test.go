package controller

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

// countedEvents counts events.
type countedEvents struct{ n int }

func (c *countedEvents) Eventf(runtime.Object, runtime.Object, string, string, string, string, ...any) {
	c.n++
}

func TestEvents_P9_ANamespaceHasABoundedNumber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		counted := &countedEvents{}
		limited := &limitedEvents{EventRecorder: counted}
		record := func(namespace string, n int) (recorded int) {
			before := counted.n
			for i := range n {
				object := newTestRun(fmt.Sprint(i), func(r *run) { r.Namespace = namespace })
				limited.Eventf(object, nil, "Warning", "BackendNotFound", "Report", "create it")
			}
			return counted.n - before
		}
		if n := record("a", 10_000); n != eventBurst {
			t.Errorf("%d events of 10,000 objects are recorded, want %d", n, eventBurst)
		}
		if n := record("b", 10); n != 10 {
			t.Errorf("%d of 10 events of another namespace are recorded", n)
		}
		time.Sleep(10 * time.Second)
		if n := record("a", 100); n != 10*eventRate {
			t.Errorf("%d events are recorded after 10 s, want %v", n, 10*eventRate)
		}
		for i := range 2000 {
			record(fmt.Sprint("n", i), 1)
			time.Sleep(time.Second)
		}
		if n := len(limited.buckets); n > 1100 {
			t.Errorf("%d namespaces are remembered", n)
		}
	})
}
