package controller

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestLeases_AreReleasedWhenTheWorkerEnds(t *testing.T) {
	w := newWorld(t)
	w.start(func(o *managerOptions) {
		o.Intervals = Intervals{Deadline: time.Hour, Rescue: time.Hour, Repair: time.Hour, Orphan: time.Hour}
	})
	w.backend()
	ends := map[string]func(*testing.T, *world, *corev1.Pod){
		"terminated": func(_ *testing.T, w *world, p *corev1.Pod) {
			w.podStatus(p, corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, ContainerID: "c://1"}}})
		},
		"restarting": func(_ *testing.T, w *world, p *corev1.Pod) {
			w.podStatus(p, corev1.ContainerStatus{RestartCount: 1,
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, ContainerID: "c://1"}}})
		},
		"failed": func(t *testing.T, w *world, p *corev1.Pod) {
			fetch(w, p).Status.Phase = corev1.PodFailed
			if err := w.Status().Update(context.Background(), p); err != nil {
				t.Fatal(err)
			}
		},
		"deleted": func(t *testing.T, w *world, p *corev1.Pod) {
			if err := w.Delete(context.Background(), p, client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, kill := range ends {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			run := newTestRun(name)
			w.create(run)
			w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
			s := w.store()
			pod := podOf("shop", name)
			w.create(pod)
			w.podStatus(pod, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			claimed := claim(t, s, string(pod.UID))
			other := newTestRun(name + "-other")
			w.create(other)
			w.awaitState(other, v1alpha1.RunPending, v1alpha1.ReasonPending)
			claim(t, s, "living")

			begin := time.Now()
			kill(t, w, pod)
			eventually(t, func() error {
				if row := w.row(s, run.UID); row.WorkerID != nil {
					return fmt.Errorf("still leased")
				}
				return nil
			})
			if d := time.Since(begin); d > time.Second {
				t.Errorf("released after %s", d)
			}
			if w.row(s, other.UID).WorkerID == nil {
				t.Errorf("the lease of another pod was released")
			}
			if again := claim(t, s, "living"); again.ID != claimed.ID {
				t.Errorf("claimed %s, want %s", again.ID, claimed.ID)
			}
		})
	}
}

func TestLeases_OfWorkersThatDiedWhileTheManagerWasDown(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	run := newTestRun("order")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	m.halt()
	s := w.store()
	claim(t, s, "gone")
	if _, err := s.SaveWorker(t.Context(), store.Worker{PodUID: "gone", Process: "process", PodName: "shop-1", Pool: "shop",
		Workflows: []openworkflow.Definition{{Name: "checkout"}}}, time.Minute); err != nil {
		t.Fatal(err)
	}
	execute(t, w.URL, `UPDATE openworkflow.operator_workers SET seen_at = now() - interval '1 minute'`)
	w.start()
	eventually(t, func() error {
		if row := w.row(s, run.UID); row.WorkerID != nil {
			return fmt.Errorf("still leased")
		}
		return nil
	})
}

func TestWorkerEnded(t *testing.T) {
	t.Parallel()
	terminated := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "c"}}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	waiting := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
	for name, test := range map[string]struct {
		name        string
		state, last corev1.ContainerState
		want        bool
	}{
		"running":               {"worker", running, corev1.ContainerState{}, false},
		"starting":              {"worker", waiting, corev1.ContainerState{}, false},
		"terminated":            {"worker", terminated, corev1.ContainerState{}, true},
		"waiting to restart":    {"worker", waiting, terminated, true},
		"running again":         {"worker", running, terminated, false}, // it has released the leases of its previous process itself
		"a sidecar that failed": {"sidecar", terminated, corev1.ContainerState{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := podOf("shop", "p")
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: test.name, State: test.state, LastTerminationState: test.last}}
			if got := workerEnded(pod) != ""; got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}
