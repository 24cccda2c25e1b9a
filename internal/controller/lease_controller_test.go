package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

func TestLeases_AreReleasedWhenTheWorkerEnds(t *testing.T) {
	w := newManagedWorld(t, func(o *managerOptions) {
		o.Intervals = Intervals{Deadline: time.Hour, Rescue: time.Hour, Repair: time.Hour, Orphan: time.Hour}
	})
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
			run := w.pendingRun(name)
			s := w.store()
			pod := podOf("shop", name)
			w.create(pod)
			w.podStatus(pod, corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			claimed := claim(t, s, string(pod.UID))
			other := w.pendingRun(name + "-other")
			claim(t, s, "living")

			kill(t, w, pod) // no sweep looks for it within an hour, so the watch of pods tells
			eventually(t, func() error {
				if row := w.row(s, run.UID); row.WorkerID != nil {
					return fmt.Errorf("still leased")
				}
				return nil
			})
			if w.row(s, other.UID).WorkerID == nil {
				t.Errorf("the lease of another pod was released")
			}
			if again := claim(t, s, "living"); again.ID != claimed.ID {
				t.Errorf("claimed %s, want %s", again.ID, claimed.ID)
			}
		})
	}
}

var (
	containerRuns     = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	containerRestarts = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
)

func containerEnded(id string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, ContainerID: id}}
}

// statuses writes the status of a pod's containers.
func (w *world) statuses(pod *corev1.Pod, change func(*corev1.PodStatus)) {
	w.t.Helper()
	fetch(w, pod)
	pod.Status.Phase = corev1.PodRunning
	change(&pod.Status)
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for i := range list {
			list[i].Image = "example.test/image:1"
		}
	}
	if err := w.Status().Update(context.Background(), pod); err != nil {
		w.t.Fatal(err)
	}
}

// awaitLeaseSweeps waits until the manager has handled all that its watch of pods showed
// before, and has looked for dead workers in a sweep that began later: it lets a canary's
// worker end, and lets another die in silence.
func (w *world) awaitLeaseSweeps(s *store.Store) {
	w.t.Helper()
	name := "canary-" + openworkflow.NewID()[24:]
	canary := podOf("shop", name)
	w.create(canary)
	w.podStatus(canary, corev1.ContainerStatus{State: containerRuns})
	for i, worker := range []string{string(canary.UID), name} {
		w.pendingRun(fmt.Sprintf("%s-%d", name, i))
		claimed := claim(w.t, s, worker)
		if i == 0 {
			w.podStatus(canary, corev1.ContainerStatus{State: containerEnded("c://" + name)})
		} else {
			if _, err := s.SaveWorker(context.Background(), store.Worker{PodUID: worker, Process: "process"}, time.Minute); err != nil {
				w.t.Fatal(err)
			}
			execute(w.t, w.URL, `UPDATE openworkflow.operator_workers SET seen_at = now() - interval '1 minute' WHERE pod_uid = '`+worker+`'`)
		}
		eventually(w.t, func() error {
			if row := w.row(s, types.UID(claimed.ID)); row.WorkerID != nil {
				return fmt.Errorf("the lease of canary %d is not released", i)
			}
			return nil
		})
		if _, err := s.CancelRuns(context.Background(), []string{claimed.ID}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A pod has more containers than the worker: those of the template, and those that a mesh's
// webhook puts before and behind it. None of their ends concerns the worker's leases.
func TestLeases_P1_StayWhenAnotherContainerEnds(t *testing.T) {
	w := newManagedWorld(t)
	for name, test := range map[string]struct {
		containers []string
		annotation string // the worker that the manager has named, if it has
		worker     string
	}{
		"proxy-first":         {[]string{"proxy", "worker"}, "worker", "worker"},
		"proxy-last":          {[]string{"worker", "proxy"}, "worker", "worker"},
		"between":             {[]string{"proxy", "checkout", "logger"}, "checkout", "checkout"},
		"with-a-worker-named": {[]string{"proxy", "checkout", "worker"}, "checkout", "checkout"},
		"not-annotated":       {[]string{"proxy", "worker"}, "", "worker"},
	} {
		t.Run(name, func(t *testing.T) {
			w := w.in(t)
			w.pendingRun(name)
			s := w.store()
			pod := podOf("shop", name)
			delete(pod.Annotations, v1alpha1.AnnotationWorkerContainer)
			if test.annotation != "" {
				pod.Annotations[v1alpha1.AnnotationWorkerContainer] = test.annotation
			}
			pod.Spec.InitContainers = []corev1.Container{
				{Name: "init", Image: "i"}, {Name: "native-sidecar", Image: "i", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)},
			}
			pod.Spec.Containers = nil
			for _, container := range test.containers {
				pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: container, Image: "i"})
			}
			w.create(pod)
			claimed := claim(t, s, string(pod.UID))

			for restarts := range int32(3) {
				id := fmt.Sprintf("c://%d", restarts)
				for _, state := range []corev1.ContainerState{containerEnded(id), containerRestarts, containerRuns} {
					other := corev1.ContainerStatus{RestartCount: restarts, State: state, LastTerminationState: containerEnded(id)}
					w.statuses(pod, func(status *corev1.PodStatus) {
						status.ContainerStatuses = nil
						for _, container := range test.containers {
							c := *other.DeepCopy()
							if container == test.worker {
								c = corev1.ContainerStatus{State: containerRuns}
							}
							c.Name = container
							status.ContainerStatuses = append(status.ContainerStatuses, c)
						}
						init, sidecar := *other.DeepCopy(), *other.DeepCopy()
						init.Name, sidecar.Name = "init", "native-sidecar"
						status.InitContainerStatuses = []corev1.ContainerStatus{init, sidecar}
						status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: "debugger", State: containerEnded("c://debugger")}}
					})
				}
			}
			w.awaitLeaseSweeps(s)
			if row := w.row(s, types.UID(claimed.ID)); row.WorkerID == nil || *row.WorkerID != *claimed.WorkerID {
				t.Fatal("the lease of a worker that runs was released")
			}

			w.statuses(pod, func(status *corev1.PodStatus) {
				for i := range status.ContainerStatuses {
					if c := &status.ContainerStatuses[i]; c.Name == test.worker {
						c.State = containerEnded("c://worker")
					}
				}
			})
			eventually(t, func() error {
				if row := w.row(s, types.UID(claimed.ID)); row.WorkerID != nil {
					return fmt.Errorf("still leased")
				}
				return nil
			})
			if _, err := s.CancelRuns(t.Context(), []string{claimed.ID}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// slowRelease is a database that answers the release of leases late.
type slowRelease struct {
	backend.Store
	calls   chan struct{}
	answers chan error
}

func (s *slowRelease) ReleaseLeases(context.Context, store.ReleaseRequest) ([]store.ReleasedRun, error) {
	s.calls <- struct{}{}
	return nil, <-s.answers
}

// Of the reconciler and a sweep that see a death at the same time, one releases its leases, and counts
// it. What has failed is done again.
func TestDeaths_P1_AreReleasedByOne(t *testing.T) {
	t.Parallel()
	s := &slowRelease{calls: make(chan struct{}, 1), answers: make(chan error)}
	conn := &backend.Connection{Store: s}
	d := newDeaths(newSuspects(nil, events.NewFakeRecorder(1)))
	req := leaseRequest{PodUID: "pod", Death: "c://1"}
	for _, failure := range []error{errors.New("no answer"), nil} {
		ended := make(chan error)
		go func() {
			_, err := d.releaseOnce(t.Context(), conn, req)
			ended <- err
		}()
		<-s.calls
		if state, err := d.releaseOnce(t.Context(), conn, req); state != releaseIsBusy || err != nil {
			t.Errorf("a second release at the same time: %v, %v", state, err)
		}
		s.answers <- failure
		if err := <-ended; !errors.Is(err, failure) {
			t.Errorf("the release: %v, want %v", err, failure)
		}
	}
	if state, err := d.releaseOnce(t.Context(), conn, req); state != releaseIsDone || err != nil {
		t.Errorf("a release after it: %v, %v", state, err)
	}
}

// A pod shows the death of its worker until after the worker was restarted and has claimed
// again. Neither that status nor a sweep takes the leases of the new process.
func TestLeases_P1_AreReleasedOncePerDeath(t *testing.T) {
	w := newManagedWorld(t)
	run := w.pendingRun("order")
	s := w.store()
	pod := podOf("shop", "shop-1")
	w.create(pod)
	w.podStatus(pod, corev1.ContainerStatus{State: containerRuns})
	claim(t, s, string(pod.UID))
	awaitRelease := func() {
		t.Helper()
		eventually(t, func() error {
			if row := w.row(s, run.UID); row.WorkerID != nil {
				return fmt.Errorf("still leased")
			}
			return nil
		})
	}
	awaitKept := func(by *openworkflow.Run, while string) {
		t.Helper()
		w.awaitLeaseSweeps(s)
		if row := w.row(s, run.UID); row.WorkerID == nil || *row.WorkerID != *by.WorkerID {
			t.Errorf("the lease of the restarted worker was released %s", while)
		}
	}

	w.podStatus(pod, corev1.ContainerStatus{State: containerEnded("c://1")})
	awaitRelease()
	second := claim(t, s, string(pod.UID))
	awaitKept(&second, "while its pod showed the death")
	w.podStatus(pod, corev1.ContainerStatus{RestartCount: 1, State: containerRestarts, LastTerminationState: containerEnded("c://1")})
	awaitKept(&second, "as the status of the same death changed")
	w.podStatus(pod, corev1.ContainerStatus{RestartCount: 1, State: containerRuns, LastTerminationState: containerEnded("c://1")})
	w.podStatus(pod, corev1.ContainerStatus{RestartCount: 1, State: containerEnded("c://2"), LastTerminationState: containerEnded("c://1")})
	awaitRelease() // each death counts
}

func TestLeases_P1_AreNotReleasedAfterTheRestart(t *testing.T) {
	w := newWorld(t)
	pod := podOf("shop", "shop-1")
	w.create(pod)
	r := &LeaseReconciler{Client: w}
	request := leaseRequest{Namespace: w.Namespace, Pod: pod.Name, PodUID: pod.UID, Death: "c://1"}
	for _, step := range []struct {
		status    corev1.ContainerStatus
		restarted bool
	}{
		{corev1.ContainerStatus{State: containerEnded("c://1")}, false},
		{corev1.ContainerStatus{State: containerRestarts, LastTerminationState: containerEnded("c://1")}, false},
		{corev1.ContainerStatus{State: containerRuns, LastTerminationState: containerEnded("c://1")}, true},
		{corev1.ContainerStatus{State: containerEnded("c://2"), LastTerminationState: containerEnded("c://1")}, true},
	} {
		w.podStatus(pod, step.status)
		if got := r.restarted(t.Context(), request); got != step.restarted {
			t.Errorf("restarted is %t after %+v", got, step.status)
		}
	}
	if err := w.Delete(t.Context(), pod, client.GracePeriodSeconds(0)); err != nil {
		t.Fatal(err)
	}
	if r.restarted(t.Context(), request) {
		t.Error("a pod that is gone was restarted")
	}
}

func TestLeases_OfWorkersThatDiedWhileTheManagerWasDown(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	run := w.pendingRun("order")
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
