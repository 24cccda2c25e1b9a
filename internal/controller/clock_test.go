package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// TestRun_R180_DurationsDoNotDependOnTheManagersClock: the clock of the database is an hour away
// from that of the manager and the API server.
func TestRun_R180_DurationsDoNotDependOnTheManagersClock(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			testpg.SetClock(t, w.URL, ahead)
			w.start()
			w.backend()
			w.create(newPool("shop"))
			checkout := newTestRun("ends", func(r *run) { r.Spec.TTLSecondsAfterFinished = new(int32(1)) })
			timed := newTestRun("timed", func(r *run) {
				r.Spec.WorkflowName, r.Spec.TimeoutSeconds = "nobody-serves", new(int64(5))
			})
			patient := newTestRun("patient", func(r *run) {
				r.Spec.WorkflowName, r.Spec.TimeoutSeconds = "nobody-serves", new(int64(1800))
			})
			w.create(checkout, timed, patient)
			w.awaitState(patient, v1alpha1.RunPending, v1alpha1.ReasonNoWorker)
			s := w.store()
			end(t, s, claim(t, s, "pod"), store.RunWrite{Op: store.RunComplete, Output: json.RawMessage(`1`)})
			row := w.row(s, checkout.UID)
			if skew := time.Until(*row.FinishedAt); (skew - ahead).Abs() > time.Minute {
				t.Fatalf("the row says %s: the database's clock is not %s %s", row.FinishedAt, ahead.Abs(), name)
			}
			eventually(t, func() error {
				if err := w.Get(context.Background(), client.ObjectKeyFromObject(checkout), checkout); !apierrors.IsNotFound(err) {
					return fmt.Errorf("ended a while ago, ttl 1 s, still there: %t, %s", err == nil, checkout.Status.State)
				}
				return nil
			})
			w.awaitState(timed, v1alpha1.RunFailed, v1alpha1.ReasonDeadlineExceeded)
			if state := fetch(w, patient).Status.State; state != v1alpha1.RunPending {
				t.Errorf("a run with half an hour left is %s", state)
			}
		})
	}
}

// TestPlanRun_R180_ComparesRowsWithTheServersClock: the ends of rows and the waits for reports, with
// a database whose clock is an hour away.
func TestPlanRun_R180_ComparesRowsWithTheServersClock(t *testing.T) {
	t.Parallel()
	for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour, "equal": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began, finished := noon.Add(ahead-2*time.Hour), noon.Add(ahead-30*time.Second)
			row := &openworkflow.Run{
				ID: "uid", Status: openworkflow.RunCompleted, Attempts: 1, WorkerID: new("a.b.1"), StartedAt: &began, FinishedAt: &finished,
				Context: openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{Namespace: "shop", Name: "order", UID: "uid"}}.Encode(),
			}
			object := newTestRun("order", func(r *run) {
				r.UID, r.CreationTimestamp = "uid", metav1.Time{Time: noon.Add(-2 * time.Hour)}
				r.Spec.TTLSecondsAfterFinished = new(int32(60))
			})
			seen := runSeen{
				Run: object, RunID: "uid", Row: row, Backend: readyState, WorkerReports: true, Now: noon, ServerAhead: ahead,
				TTL: object.Spec.TTLSecondsAfterFinished,
			}
			if got := planRun(seen); got.ExpectReportWithin != 5*time.Second {
				t.Errorf("the end of 30 s ago is expected to be reported within %s, want 5 s: %+v", got.ExpectReportWithin, got)
			}

			object.Status.RunID, object.Status.State = "uid", v1alpha1.RunCompleted
			object.Status.FinishedAt = &metav1.Time{Time: finished}
			if got := planRun(seen); got.RequeueAfter != 30*time.Second {
				t.Errorf("30 s after the end, plan is %+v", got)
			}
			seen.Row = nil // it was deleted by hand
			if got := planRun(seen); got.RequeueAfter != 30*time.Second {
				t.Errorf("30 s after the end, without a row, plan is %+v", got)
			}
			seen.Now = noon.Add(30 * time.Second)
			if got := planRun(seen); got.Action != runDelete {
				t.Errorf("60 s after the end, plan is %+v", got)
			}

			reports := NewReportTracker()
			workers := []store.Worker{{PodUID: "a", Process: "b", PodName: "pod-a"}}
			object.Status.Worker = "pod-a"
			reports.Observe(&object.Status, workers, noon, seen.serverNow().Add(-30*time.Second))
			if delay := reports.SlowestReportDelay(workers, noon); delay != 29*time.Second {
				t.Errorf("a report of 30 s ago has a delay of %s", delay)
			}
		})
	}
}

var readyState = backend.State{Known: true, Ready: true}

// TestForged_P4_TheTimeOfAnEndMayDiffer: a worker reads the clock after its write has returned.
func TestForged_P4_TheTimeOfAnEndMayDiffer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		off  time.Duration
		want bool
	}{"the next second": {time.Second, false}, "an outage later": {time.Minute, false}, "an hour": {-time.Hour, true}} {
		row := &openworkflow.Run{ID: "uid", Status: openworkflow.RunCompleted, Attempts: 1, FinishedAt: &noon, CreatedAt: noon}
		object := newTestRun("order", func(r *run) { r.UID = "uid" })
		object.Status = runStatus(runSeen{Run: object, Row: row})
		object.Status.FinishedAt = &metav1.Time{Time: noon.Add(c.off)}
		if _, err := stripRun(object); err != nil { // as the cache does
			t.Fatal(err)
		}
		if got := forged(&runSeen{Run: object, RunID: "uid", Row: row}); got != c.want {
			t.Errorf("%s: forged %t, want %t", name, got, c.want)
		}
	}
}
