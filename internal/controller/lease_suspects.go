package controller

import (
	"context"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/poolspec"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/internal/store"
)

// maxSuspectsShown bounds the runs of one death that get an event.
const maxSuspectsShown = 20

// diedInPlace reports whether the worker's process has ended while its pod lives on, so that
// what it executed may be the cause. A pod that is deleted (a rollout, a scale-down, a drain),
// evicted, preempted or shut down with its node is not, and neither is one of whose container
// the node knows nothing any more.
func diedInPlace(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil || pod.Status.Reason != "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	death := workerDeath(pod)
	return death != nil && death.Reason != "ContainerStatusUnknown"
}

// suspects tells users which runs may have killed a worker, and remembers it for the message
// of the pool.
type suspects struct {
	client.Reader
	events events.EventRecorder

	mu sync.Mutex
	// byPod has what is known of a pod's last death, by the uid of the pod.
	byPod map[types.UID]string
}

func newSuspects(reader client.Reader, recorder events.EventRecorder) *suspects {
	return &suspects{Reader: reader, events: recorder, byPod: map[types.UID]string{}}
}

// of says which runs the pod's worker executed when it died last, and nothing if none is known.
func (s *suspects) of(pod types.UID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byPod[pod]
}

func (s *suspects) set(pod types.UID, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if text == "" {
		delete(s.byPod, pod)
		return
	}
	s.byPod[pod] = text
}

// maxDeaths returns the bound of the pod's pool.
func (s *suspects) maxDeaths(ctx context.Context, namespace, pool string) int {
	var p v1alpha1.WorkerPool
	if err := s.Get(ctx, types.NamespacedName{Namespace: namespace, Name: pool}, &p, client.UnsafeDisableDeepCopy); err != nil {
		return 0 // the runs wait for longer before they fail
	}
	return int(ptr.Deref(p.Spec.MaxWorkerDeaths, poolspec.DefaultMaxWorkerDeaths))
}

// note tells of the runs that a dead worker executed and that are quarantined now, or fail as
// they have reached the bound.
func (s *suspects) note(ctx context.Context, conn *backend.Connection, death leaseRequest, bound int, released []store.ReleasedRun) {
	var ids []string
	deaths := map[string]int{}
	for _, r := range released {
		deaths[r.ID] = r.Deaths
		if (&openworkflow.Run{Deaths: r.Deaths}).Quarantined() || bound > 0 && r.Deaths >= bound {
			ids = append(ids, r.ID)
		}
	}
	if len(ids) == 0 {
		if len(released) > 0 { // else somebody has released the leases of the same death before
			s.set(death.PodUID, "")
		}
		return
	}
	metrics.RunsQuarantined.Add(float64(len(ids)))
	ids = ids[:min(len(ids), maxSuspectsShown)]
	runs, err := conn.Store.RunStates(ctx, ids)
	if err != nil {
		return // the status of the runs tells it too
	}
	steps, err := conn.Store.StepSummaries(ctx, ids, projection.NewestSteps)
	if err != nil {
		return
	}
	var names []string
	for _, id := range ids {
		if run := runs[id]; run != nil {
			run.Deaths = deaths[id] // a worker may have failed the run meanwhile
			names = append(names, s.noteRun(ctx, death, bound, run, steps[id]))
		}
	}
	text := truncateText("; it executed "+strings.Join(names, ", "), 400)
	s.set(death.PodUID, text)
	ctrl.LoggerFrom(ctx).Info("A worker has died with runs whose worker had died before", "pod", death.Pod, "runs", ids)
	var pool v1alpha1.WorkerPool
	if err := s.Get(ctx, types.NamespacedName{Namespace: death.Namespace, Name: death.Pool}, &pool, client.UnsafeDisableDeepCopy); err == nil {
		s.events.Eventf(&pool, nil, eventType(false), v1alpha1.ReasonQuarantined, "Quarantine", "the worker of pod %s has died%s", death.Pod, text)
	}
}

// noteRun tells of one run at its object, if that is in the pod's namespace, and returns a name
// of the run.
func (s *suspects) noteRun(ctx context.Context, death leaseRequest, bound int, run *openworkflow.Run, steps openworkflow.StepSummary) string {
	name, step := "run "+run.ID, openworkflow.SuspectedStep(steps.Newest)
	reason, text := v1alpha1.ReasonQuarantined, ""
	if bound > 0 && run.Deaths >= bound {
		reason, text = v1alpha1.ReasonWorkerDeathsExceeded, openworkflow.WorkerDeathsError(truncateText(step, 100), run.Deaths).Message
	} else {
		if run.DiedAt != nil { // a worker may have claimed it meanwhile
			run.AvailableAt = new(run.DiedAt.Add(openworkflow.DeathDelay(run.Deaths, bound)))
		}
		text = projection.QuarantineMessage(run, steps)
	}
	ref := run.Object()
	if ref != nil && ref.Namespace == death.Namespace {
		var object v1alpha1.WorkflowRun
		err := s.Get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, &object, client.UnsafeDisableDeepCopy)
		if err == nil && string(object.UID) == ref.UID && poolspec.LabelValue(backend.NameOf(object.Spec.BackendRef)) == death.Backend {
			name = "run " + ref.Name
			s.events.Eventf(&object, nil, eventType(false), reason, "Quarantine", "%s", text)
		}
	}
	if step != "" {
		name += fmt.Sprintf(" (step %q)", truncateText(step, 100))
	}
	return name
}
