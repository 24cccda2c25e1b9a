package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestDiedInPlace_P3_OnlyAProcessThatDiesInAPodThatLives(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(p *corev1.Pod)
		want   bool
	}{
		"it has ended":  {func(*corev1.Pod) {}, true},
		"out of memory": {func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State.Terminated.Reason = "OOMKilled" }, true},
		"exit code 0":   {func(p *corev1.Pod) { p.Status.ContainerStatuses[0].State.Terminated.ExitCode = 0 }, true},
		"waiting to restart": {func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State, p.Status.ContainerStatuses[0].LastTerminationState = containerRestarts, containerEnded("c://1")
		}, true},
		"running again": {func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State, p.Status.ContainerStatuses[0].LastTerminationState = containerRuns, containerEnded("c://1")
		}, false},
		"another container":            {func(p *corev1.Pod) { p.Status.ContainerStatuses[0].Name = "proxy" }, false},
		"the pod is deleted":           {func(p *corev1.Pod) { p.DeletionTimestamp = new(metav1.Now()) }, false},
		"evicted":                      {func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, false},
		"evicted, phase not known yet": {func(p *corev1.Pod) { p.Status.Reason = "Evicted" }, false},
		"failed with its node":         {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, false},
		"preempted": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler"}}
		}, false},
		"no longer a target": {func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse}}
		}, true},
		"unknown to the node": {func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].State.Terminated.Reason = "ContainerStatusUnknown"
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pod := podOf("shop", "p")
			pod.Status.Phase = corev1.PodRunning
			pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: containerEnded("c://1")}}
			test.change(pod)
			if got := diedInPlace(pod); got != test.want {
				t.Errorf("got %t, want %t", got, test.want)
			}
		})
	}
}

// beginStep writes the running row of a step of a claimed run.
func (w *world) beginStep(s *store.Store, run *openworkflow.Run, name string) {
	w.t.Helper()
	lease := openworkflow.Lease{RunID: run.ID, WorkerID: *run.WorkerID}
	result, err := s.ApplyAndClaim(w.t.Context(), store.Batch{Steps: []store.StepWrite{{Lease: lease, Attempt: openworkflow.StepAttempt{
		ID: openworkflow.NewID(), StepName: name, Kind: openworkflow.KindFunction, Status: openworkflow.StepRunning,
	}}}})
	if err != nil || result.Steps[0] != nil {
		w.t.Fatalf("begin step: %v, %v", err, result.Steps)
	}
}

// TestSuspects_P3_ARunThatKillsItsWorkerIsNamed: in the events of the run and the pool, in the
// message of the pool, and in the status of the run.
func TestSuspects_P3_ARunThatKillsItsWorkerIsNamed(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	pool := newPool("shop", func(p *v1alpha1.WorkerPool) { p.Spec.MaxWorkerDeaths = new(int32(4)) })
	w.create(pool)
	run := newTestRun("poison")
	w.create(run)
	w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
	s := w.store()
	pod := podOf("shop", "shop-1")
	w.create(pod)
	const bound = 4
	die := func(n int) {
		t.Helper()
		w.podStatus(pod, corev1.ContainerStatus{RestartCount: int32(n), State: containerRuns})
		claimed := claim(t, s, string(pod.UID))
		w.beginStep(s, &claimed, "kill")
		w.podStatus(pod, corev1.ContainerStatus{RestartCount: int32(n), State: containerEnded(fmt.Sprintf("c://%d", n))})
		eventually(t, func() error {
			if row := w.row(s, run.UID); row.WorkerID != nil || row.Deaths != n+1 {
				return fmt.Errorf("after death %d the row has %d deaths", n+1, row.Deaths)
			}
			return nil
		})
	}
	die(0)
	die(1)
	// The next death comes after the event: the manager tells of those that it finds together as one.
	w.awaitNote("WorkflowRun", run.Name, v1alpha1.ReasonQuarantined, `the worker process has died 2 times in a row in step "kill" of the run; next attempt at `)
	die(2)
	if row := w.row(s, run.UID); !row.AvailableAt.Equal(row.DiedAt.Add(5 * time.Second)) {
		t.Errorf("the run is due at %v, want 5 s after %v", row.AvailableAt, row.DiedAt)
	}

	// The run has been in this state since the second death, and leaves it once it is due: 45 s is the longest delay.
	dueIn := func(interval string) {
		execute(t, w.URL, `UPDATE openworkflow.workflow_runs SET available_at = updated_at + interval '`+interval+`' WHERE id = '`+string(run.UID)+`'`)
	}
	dueIn("45 s")
	const text = `the worker process has died 3 times in a row in step "kill" of the run; next attempt at `
	w.awaitRun(run, func(run *v1alpha1.WorkflowRun) error {
		if got := conditionReason(run.Status.Conditions); got != v1alpha1.ReasonQuarantined || !strings.HasPrefix(run.Status.Message, text) {
			return fmt.Errorf("%s: %q", got, run.Status.Message)
		}
		return nil
	})
	w.awaitNote("WorkerPool", pool.Name, v1alpha1.ReasonQuarantined, `the worker of pod shop-1 has died; it executed run poison (step "kill")`)

	dueIn("0 s")
	die(bound - 1)
	if row := w.row(s, run.UID); !row.AvailableAt.Equal(*row.DiedAt) {
		t.Errorf("at its bound the run is due at %v, want %v", row.AvailableAt, row.DiedAt)
	}
	w.awaitNote("WorkflowRun", run.Name, v1alpha1.ReasonWorkerDeathsExceeded, `the worker process has died 4 times in a row in step "kill" of the run`)
}

// awaitNote waits for a Warning with this reason about an object, whose note begins so. Of
// several in a row the API server keeps the first note, and a count.
func (w *world) awaitNote(kind, name, reason, note string) {
	w.t.Helper()
	eventually(w.t, func() error {
		var list corev1.EventList
		if err := w.List(w.t.Context(), &list, client.InNamespace(w.Namespace)); err != nil {
			return err
		}
		var notes []string
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && e.Reason == reason && e.Type == corev1.EventTypeWarning {
				if strings.HasPrefix(e.Message, note) {
					return nil
				}
				notes = append(notes, e.Message)
			}
		}
		return fmt.Errorf("no event %s of %s %s begins with %q; there are %q", reason, kind, name, note, notes)
	})
}

func TestLeases_P6_AnEvictionOrADeletedPodIsNoDeathOfTheRun(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.backend()
	for name, end := range map[string]func(w *world, p *corev1.Pod){
		"evicted": func(w *world, p *corev1.Pod) {
			w.statuses(p, func(status *corev1.PodStatus) {
				status.Phase, status.Reason = corev1.PodFailed, "Evicted"
				status.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: containerEnded("c://1")}}
			})
		},
		"deleted": func(w *world, p *corev1.Pod) {
			if err := w.Delete(w.t.Context(), p, client.GracePeriodSeconds(0)); err != nil {
				w.t.Fatal(err)
			}
		},
		"terminating": func(w *world, p *corev1.Pod) {
			modify(w, p, func(p *corev1.Pod) { p.Finalizers = []string{"example.test/stay"} })
			if err := w.Delete(w.t.Context(), p); err != nil {
				w.t.Fatal(err)
			}
			w.statuses(p, func(status *corev1.PodStatus) {
				status.ContainerStatuses = []corev1.ContainerStatus{{Name: "worker", State: containerEnded("c://1")}}
			})
			w.t.Cleanup(func() { modify(w, p, func(p *corev1.Pod) { p.Finalizers = nil }) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			run := newTestRun(name)
			w.create(run)
			w.awaitState(run, v1alpha1.RunPending, v1alpha1.ReasonPending)
			s := w.store()
			pod := podOf("shop", name)
			w.create(pod)
			w.podStatus(pod, corev1.ContainerStatus{State: containerRuns})
			claimed := claim(t, s, string(pod.UID))
			end(w, pod)
			eventually(t, func() error {
				if row := w.row(s, types.UID(claimed.ID)); row.WorkerID != nil {
					return fmt.Errorf("still leased")
				}
				return nil
			})
			if row := w.row(s, types.UID(claimed.ID)); row.Deaths != 0 {
				t.Errorf("the end of the pod counts as %d deaths of the run", row.Deaths)
			}
			if _, err := s.CancelRuns(t.Context(), []string{claimed.ID}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
