//go:build bench

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/projection"
	"github.com/openworkflow-operator/operator/test/bench/report"
)

// objects is W6: WorkflowRuns through a real API server, with the manager and a worker
// that reports.
func (s *session) objects(t *testing.T) {
	c := startCluster(t)
	const first = 500 // an API server's first objects cost it more
	c.createBare(t, "warm-up", first, &bare{})
	executed := func(t *testing.T, d *disk, name string, rounds int) {
		for round := range rounds {
			sample := c.round(t, d, fmt.Sprintf("%s-%d", namespaceOf(name), round), s.sizes.objects, s.idle)
			s.report.Add(asIs, name, sample)
			t.Logf("%s, round %d: %v", name, round+1, sample)
		}
	}
	t.Run("apart", func(t *testing.T) {
		c.standApart(t)
		executed(t, startDisk(t, asIs), "W6 objects, API server apart", s.slowRounds)
	})
	d := startDisk(t, asIs)
	// Where all share the cores, a round alone has had from 0.44 to 0.85 of the bare objects.
	t.Run("executed", func(t *testing.T) { executed(t, d, "W6 objects", s.rounds) })
	t.Run("policies", func(t *testing.T) { s.policies(t, c) })
	t.Run("waiting", func(t *testing.T) {
		sample := c.waiting(t, d, "bench-waiting", s.sizes.objects, s.idle)
		s.report.Add(asIs, "W6 waiting objects", sample)
		t.Logf("W6 waiting objects: %v", sample)
	})
}

func namespaceOf(name string) string {
	return strings.NewReplacer(" ", "-", ",", "").Replace(strings.ToLower(name))
}

// round creates n WorkflowRuns in a namespace of their own, and deletes them after all have
// completed.
func (c *cluster) round(t *testing.T, d *disk, namespace string, n int, idle time.Duration) report.Sample {
	t.Helper()
	b := d.emptyBase(t)
	defer b.drop()
	// The bare objects come before and after ours: the machine's speed drifts.
	small := &bare{status: v1alpha1.WorkflowRunStatus{State: v1alpha1.RunCompleted}}
	same := &bare{status: fiveSteps()}
	around := func(when string) {
		c.createBare(t, namespace+"-small-"+when, n/4, small)
		c.createBare(t, namespace+"-same-"+when, n/4, same)
	}
	around("before")

	manager := c.manage(t, b, namespace)
	pod := c.workerPod(t, namespace)
	reporting := start(t, 0, []string{
		"BENCH_KUBECONFIG=" + c.kubeconfig,
		"BENCH_OBJECTS=" + namespace,
		"OPENWORKFLOW_NAMESPACE_ID=" + namespace,
		"OPENWORKFLOW_POSTGRES_URL=" + b.url,
		"OPENWORKFLOW_CONCURRENCY=" + strconv.Itoa(slots),
		"POD_NAME=" + pod.Name,
		"POD_UID=" + string(pod.UID),
	}, program(t, "./test/bench/worker"))

	spent := func() map[string]time.Duration {
		return map[string]time.Duration{
			"API server": processorTime(t, child(t, "kube-apiserver")),
			"etcd":       processorTime(t, child(t, "etcd")),
			"manager":    processorTime(t, manager.cmd.Process.Pid),
			"worker":     processorTime(t, reporting.cmd.Process.Pid),
			"Postgres":   processorTime(t, d.server.PID()),
		}
	}
	before := spent()
	writes, began := c.writes(t), time.Now()
	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error { return c.Create(ctx, run) })
	created := time.Since(began)
	var ended time.Time
	b.await("completed objects", patience, func() bool {
		var rows int
		b.scan(`SELECT count(*) FROM openworkflow.workflow_runs WHERE namespace_id = $1 AND status = 'completed'`,
			[]any{namespace}, &rows)
		ended = time.Now()
		return rows == n && c.completed(t, namespace)
	})
	after := spent()
	perRun := (c.writes(t) - writes) / float64(n)
	live := resident(t, manager.cmd.Process.Pid)
	stop([]*process{reporting})
	finished := c.finished(t, d, b, manager, namespace, n, idle)

	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error { return c.Delete(ctx, run) })
	idleFor(b, idle) // the manager's collector gives memory back little by little
	gone := resident(t, manager.cmd.Process.Pid)
	stop([]*process{manager})
	around("after")

	rate := float64(n) / ended.Sub(began).Seconds()
	sample := report.Sample{
		"objects/s":                     rate,
		"objects created/s":             float64(n) / created.Seconds(),
		"bare objects/s":                small.rate(),
		"bare API server µs/object":     small.apiServer(),
		"objects ÷ bare":                rate / small.rate(),
		"objects ÷ bare, same status":   rate / same.rate(),
		"API writes/run":                perRun,
		"manager MiB, all objects live": live / (1 << 20),
		"manager MiB, all objects gone": gone / (1 << 20),
	}
	maps.Copy(sample, finished)
	for name := range after {
		sample[name+" µs/object"] = float64((after[name] - before[name]).Microseconds()) / float64(n)
	}
	return sample
}

// finished measures the cost of n completed objects: while a manager runs, and when one
// starts.
func (c *cluster) finished(t *testing.T, d *disk, b *base, manager *process, namespace string, n int, idle time.Duration) report.Sample {
	t.Helper()
	b.awaitCalm(func() float64 { return manager.counts().reconciles })
	pid := manager.cmd.Process.Pid
	before, busy, postgres := manager.counts(), processorTime(t, pid), processorTime(t, d.server.PID())
	began := time.Now()
	idleFor(b, idle)
	took, after := time.Since(began).Seconds(), manager.counts()
	sample := report.Sample{
		"reconciles, all finished":     after.reconciles - before.reconciles,
		"API requests, all finished":   after.requests - before.requests,
		"manager CPU %, all finished":  100 * (processorTime(t, pid) - busy).Seconds() / took,
		"Postgres CPU %, all finished": 100 * (processorTime(t, d.server.PID()) - postgres).Seconds() / took,
	}
	second := c.startManager(t, namespace)
	b.awaitCalm(func() float64 { return second.counts().requests + second.counts().reconciles })
	counts := second.counts()
	sample["reconciles, start"] = counts.reconciles
	sample["API requests, start"] = counts.requests
	sample["manager µs/object, start"] = float64(processorTime(t, second.cmd.Process.Pid).Microseconds()) / float64(n)
	stop([]*process{second})
	return sample
}

// waiting creates n WorkflowRuns that no worker executes, and measures their cost after the
// status of each says so.
func (c *cluster) waiting(t *testing.T, d *disk, namespace string, n int, idle time.Duration) report.Sample {
	t.Helper()
	b := d.emptyBase(t)
	defer b.drop()
	manager := c.manage(t, b, namespace)
	before := c.writes(t)
	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error { return c.Create(ctx, run) })
	writes := b.awaitCalm(func() float64 { return c.writes(t) })
	busy, postgres := processorTime(t, manager.cmd.Process.Pid), processorTime(t, d.server.PID())
	began := time.Now()
	idleFor(b, idle)
	took := time.Since(began).Seconds()
	sample := report.Sample{
		"API writes/object": (writes - before) / float64(n),
		"manager MiB":       resident(t, manager.cmd.Process.Pid) / (1 << 20),
		"manager CPU %":     100 * (processorTime(t, manager.cmd.Process.Pid) - busy).Seconds() / took,
		"Postgres CPU %":    100 * (processorTime(t, d.server.PID()) - postgres).Seconds() / took,
	}
	stop([]*process{manager})
	return sample
}

// bare sums up the cost of creating objects without a watch and of patching their status
// once.
type bare struct {
	status     v1alpha1.WorkflowRunStatus
	objects    int
	took, busy time.Duration // by the clock, and of the API server's processors
}

func (b *bare) rate() float64      { return float64(b.objects) / b.took.Seconds() }
func (b *bare) apiServer() float64 { return float64(b.busy.Microseconds()) / float64(b.objects) }

// createBare adds n objects in a namespace of their own to b.
func (c *cluster) createBare(t *testing.T, namespace string, n int, b *bare) {
	t.Helper()
	c.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	patch, err := json.Marshal(map[string]any{"status": b.status})
	if err != nil {
		t.Fatal(err)
	}
	server := child(t, "kube-apiserver")
	busy, began := processorTime(t, server), time.Now()
	c.forEach(t, namespace, n, func(ctx context.Context, run *v1alpha1.WorkflowRun) error {
		if err := c.Create(ctx, run); err != nil {
			return err
		}
		return c.Status().Patch(ctx, run, client.RawPatch(types.MergePatchType, patch))
	})
	b.objects += n
	b.took += time.Since(began)
	b.busy += processorTime(t, server) - busy
}

// fiveSteps is the status of a completed run of five steps, as a worker reports it.
func fiveSteps() v1alpha1.WorkflowRunStatus {
	now := time.Now()
	return projection.Status(&openworkflow.Run{
		ID: openworkflow.NewID(), Status: openworkflow.RunCompleted, Attempts: 1, Output: []byte("10"),
		StartedAt: &now, FinishedAt: &now, CreatedAt: now, UpdatedAt: now,
	}, openworkflow.StepSummary{Completed: 5, Names: 5}, "bench")
}

// workerPod creates the object of a worker's pod. The manager waits for the reports of workers in
// pods of the namespace only.
func (c *cluster) workerPod(t *testing.T, namespace string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bench", Labels: map[string]string{v1alpha1.LabelWorkerPool: "bench"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "worker", Image: "bench"}}},
	}
	if err := c.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	return pod
}
