package controller

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// foreign is a run with workers of OpenWorkflow's, whose statements the methods repeat.
type foreign struct {
	w     *world
	s     *store.Store
	sweep *takeoverSweep
	id    string
}

func newForeign(w *world, s *store.Store, sweep *takeoverSweep) *foreign {
	w.t.Helper()
	id := openworkflow.NewID()
	if created, err := s.CreateRuns(w.t.Context(), []store.NewRun{{ID: id, WorkflowName: "ts"}}); err != nil || created[0].Err != nil {
		w.t.Fatal(err, created)
	}
	return &foreign{w, s, sweep, id}
}

// claim is a claim, after which so much of the lease is left.
func (f *foreign) claim(left string) {
	f.exec(`UPDATE openworkflow.workflow_runs SET status = 'running', attempts = attempts + 1, worker_id = gen_random_uuid()::text,
		available_at = now() + interval '` + left + `', started_at = coalesce(started_at, now()), updated_at = now() WHERE id = '` + f.id + `'`)
}

// step is an attempt that begins, and has ended if finished is an SQL expression other than NULL.
func (f *foreign) step(kind, finished string) {
	f.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, started_at, finished_at, created_at, updated_at)
		SELECT namespace_id, gen_random_uuid()::text, id, 'kill', '` + kind + `', CASE WHEN ` + finished + ` IS NULL THEN 'running' ELSE 'completed' END,
			'{}', now(), ` + finished + `, date_trunc('milliseconds', now()), now()
		FROM openworkflow.workflow_runs WHERE id = '` + f.id + `'`)
}

func (f *foreign) exec(sql string) { execute(f.w.t, f.w.URL, sql) }

func (f *foreign) look() {
	f.w.t.Helper()
	if err := f.sweep.run(f.w.t.Context()); err != nil {
		f.w.t.Fatal(err)
	}
}

// die lets the container of a worker die, its lease end, and another worker claim the run.
func (f *foreign) die() {
	f.w.t.Helper()
	f.claim("-1 second")
	f.step("function", "NULL")
	f.look()
	f.sweep.deaths.addForeign(f.sweep.conn.Key, time.Now().Add(-10*time.Second))
	f.claim("30 seconds")
	f.look()
}

func (f *foreign) row() *openworkflow.Run {
	f.w.t.Helper()
	return f.w.row(f.s, types.UID(f.id))
}

// newTakeovers returns a sweep over a Backend with a pool of TypeScript workers.
func newTakeovers(t *testing.T) (*world, *store.Store, *takeoverSweep) {
	t.Helper()
	w := newWorld(t)
	m := w.start() // creates the tables
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	m.halt()
	w.create(newPool("shop", func(p *v1alpha1.WorkerPool) { p.Spec.MaxWorkerDeaths = new(int32(4)) }), podOf("shop", "shop-1"))
	s := w.store()
	conn := backend.NewConnection(types.NamespacedName{Namespace: w.Namespace, Name: "default"}, s, store.Options{NamespaceID: w.Namespace}, "")
	return w, s, &takeoverSweep{cache: w, conn: conn, deaths: newDeaths(newSuspects(w, events.NewFakeRecorder(100)))}
}

func TestTakeovers_P3_OnlyWhatLooksLikeADeathCounts(t *testing.T) {
	w, s, sweep := newTakeovers(t)
	key := sweep.conn.Key
	lately := func() { sweep.deaths.addForeign(key, time.Now().Add(-10*time.Second)) }
	for name, test := range map[string]struct {
		left      string // of the lease, at the last look
		meanwhile func(f *foreign)
		want      int
	}{
		"a death":            {"-1 second", func(f *foreign) { lately(); f.claim("30 seconds") }, 1},
		"a step has begun":   {"-1 second", func(f *foreign) { lately(); f.claim("30 seconds"); f.step("function", "NULL") }, 1},
		"a step has ended":   {"-1 second", func(f *foreign) { lately(); f.claim("30 seconds"); f.step("function", "now()") }, 0},
		"a wait has begun":   {"-1 second", func(f *foreign) { lately(); f.claim("30 seconds"); f.step("sleep", "NULL") }, 0},
		"no container died":  {"-1 second", func(f *foreign) { f.claim("30 seconds") }, 0},
		"one died long ago":  {"-1 second", func(f *foreign) { sweep.deaths.addForeign(key, time.Now().Add(-time.Minute)); f.claim("30 seconds") }, 0},
		"one died too late":  {"-20 seconds", func(f *foreign) { sweep.deaths.addForeign(key, time.Now()); f.claim("30 seconds") }, 0},
		"nobody has claimed": {"-1 second", func(*foreign) { lately() }, 0},
		"a heartbeat": {"-1 second", func(f *foreign) {
			lately()
			f.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() + interval '30 seconds' WHERE id = '` + f.id + `'`)
		}, 0},
		"the holder was not silent": {"20 seconds", func(f *foreign) { lately(); f.claim("30 seconds") }, 0},
		"its workflow failed and is retried": {"-1 second", func(f *foreign) {
			lately()
			f.exec(`UPDATE openworkflow.workflow_runs SET status = 'pending', worker_id = NULL, started_at = NULL, error = '{"message":"no"}' WHERE id = '` + f.id + `'`)
			f.claim("30 seconds")
		}, 0},
		"it was given back": {"-1 second", func(f *foreign) {
			lately()
			f.exec(`UPDATE openworkflow.workflow_runs SET status = 'pending', worker_id = NULL, started_at = NULL,
				error = '{"message":"Workflow \"ts\" is not registered"}' WHERE id = '` + f.id + `'`)
			f.claim("30 seconds")
		}, 0},
		"a worker of ours has claimed": {"-1 second", func(f *foreign) {
			lately()
			f.claim("30 seconds")
			f.exec(`UPDATE openworkflow.workflow_runs SET worker_id = 'pod.process.1' WHERE id = '` + f.id + `'`)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForeign(w.in(t), s, sweep)
			sweep.deaths.addForeign(key, time.Time{})
			f.claim(test.left)
			f.look()
			f.look()
			test.meanwhile(f)
			holder := f.row().WorkerID
			f.look()
			f.look()
			if r := f.row(); r.Deaths != test.want || (r.DiedAt != nil) != (test.want > 0) || *r.WorkerID != *holder {
				t.Errorf("the run has %d deaths, want %d, and is held by %v, want %v", r.Deaths, test.want, *r.WorkerID, *holder)
			}
			if _, err := s.CancelRuns(t.Context(), []string{f.id}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestTakeovers_P3_ARunIsDelayedAndFailsAtTheBound(t *testing.T) {
	w, s, sweep := newTakeovers(t)
	f := newForeign(w, s, sweep)
	for n := range 2 {
		f.die()
		if r := f.row(); r.Deaths != n+1 || r.WorkerID == nil {
			t.Fatalf("after death %d the run is %+v, want it held", n+1, r)
		}
	}
	f.die()
	r := f.row()
	if r.Deaths != 3 || r.WorkerID != nil || r.Status != openworkflow.RunRunning || r.AvailableAt == nil ||
		r.AvailableAt.Sub(*r.DiedAt).Round(time.Second) != 5*time.Second {
		t.Fatalf("after the third death the run is %+v, want it due in 5 s", r)
	}
	f.die()
	r = f.row()
	want := openworkflow.WorkerDeathsError("kill", 4)
	if got := openworkflow.DecodeError(r.Error); r.Status != openworkflow.RunFailed || got != want {
		t.Errorf("at its bound the run is %s with %+v, want %+v", r.Status, got, want)
	}
}

// TestTakeovers_P3_TheManagerSeesTheContainerDie: its watch of pods and its sweep work together.
func TestTakeovers_P3_TheManagerSeesTheContainerDie(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	pod := podOf("shop", "shop-1")
	w.create(newPool("shop"), pod)
	w.podStatus(pod, corev1.ContainerStatus{State: containerRuns})
	f := newForeign(w, w.store(), nil)
	f.claim("8 seconds") // the holder has missed a heartbeat
	w.podStatus(pod, corev1.ContainerStatus{State: containerEnded("c://1")})
	eventually(t, func() error {
		if left := time.Until(*f.row().AvailableAt); left > -100*time.Millisecond {
			return fmt.Errorf("the lease of the dead worker lasts for %v", left)
		}
		return nil
	})
	f.claim("30 seconds")
	eventually(t, func() error {
		if r := f.row(); r.Deaths != 1 {
			return fmt.Errorf("the run has %d deaths, want 1", r.Deaths)
		}
		return nil
	})
}

func TestTakeovers_P6_ABackendWithoutForeignPodsIsNotRead(t *testing.T) {
	w, s, sweep := newTakeovers(t)
	f := newForeign(w, s, sweep)
	var pod corev1.Pod
	pod.Namespace, pod.Name = w.Namespace, "shop-1"
	fetch(w, &pod)
	sweep.conn.SetWorkers([]store.Worker{{PodUID: string(pod.UID), Process: "p"}})
	f.die()
	if r := f.row(); r.Deaths != 0 {
		t.Errorf("the run has %d deaths", r.Deaths)
	}
}
