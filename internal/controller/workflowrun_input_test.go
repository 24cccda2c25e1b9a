package controller

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// liveHeap returns the bytes that are in use.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// It does not run in parallel, because all tests share the heap.
func TestWorkflowRun_P9_InputsThatWaitTakeNoMemory(t *testing.T) {
	const runs, size, limit = 12, 900_000, 6 << 20
	w := newWorldAt(t, testpg.New(t))
	w.start()
	first := newTestRun("first")
	w.create(first)
	w.awaitState(first, v1alpha1.RunPending, v1alpha1.ReasonBackendNotFound)
	before := liveHeap()
	for n := range runs {
		w.create(newTestRun(fmt.Sprintf("large-%d", n), func(r *run) {
			r.Spec.Input = &apiextensionsv1.JSON{Raw: fmt.Appendf(nil, "%q", strings.Repeat("x", size))}
		}))
	}
	for n := range runs {
		key := types.NamespacedName{Namespace: w.Namespace, Name: fmt.Sprintf("large-%d", n)}
		eventuallyWithin(t, 2*time.Minute, func() error { // the API server takes long for such objects
			var run v1alpha1.WorkflowRun
			if err := w.Get(context.Background(), key, &run); err != nil {
				return err
			}
			if got := conditionReason(run.Status.Conditions); got != v1alpha1.ReasonBackendNotFound {
				return fmt.Errorf("%s is %s", key.Name, got)
			}
			return nil
		})
	}
	eventually(t, func() error { // answers of the API server may still be on their way
		if after := liveHeap(); after > before+limit {
			return fmt.Errorf("the heap has grown by %d MiB for %d MiB of inputs", (after-before)>>20, runs*size>>20)
		}
		return nil
	})

	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	eventuallyWithin(t, time.Minute, func() error {
		if n := queryInt(t, w.URL, `SELECT count(*) FROM openworkflow.workflow_runs WHERE octet_length(input::text) = $1`, size+2); n != runs {
			return fmt.Errorf("%d runs have their whole input, want %d", n, runs)
		}
		return nil
	})
}

// queryInt returns the number that a query returns.
func queryInt(t *testing.T, url, sql string, args ...any) (n int) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if err := conn.QueryRow(context.Background(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
