package runner_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// The environment variables of a worker process, which is this test binary executed again.
const (
	workerURLVariable = "RUNNER_TEST_WORKER_URL"
	workerPodVariable = "RUNNER_TEST_WORKER_POD"
)

const (
	deathsBound = 3
	// lifeTime is how long a process lives with the bad run. A good run does a step in a tenth.
	lifeTime = 200 * time.Millisecond
)

// runWorkerProcess is the worker process. It ends at SIGTERM, or with the bad run.
func runWorkerProcess(url string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := store.Open(ctx, store.Options{URL: url})
	if err != nil {
		return err
	}
	defer s.Close()
	db, err := pgxpool.New(ctx, url)
	if err != nil {
		return err
	}
	defer db.Close()
	r, err := runner.New(s, definitions(goodWorkflow(db), badWorkflow()), runner.Options{
		PodUID: os.Getenv(workerPodVariable), Concurrency: 5, PollInterval: 100 * time.Millisecond, MaxWorkerDeaths: deathsBound,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	return r.Run(ctx, 10*time.Second)
}

// goodWorkflow executes steps. Each call notes how many completions of the step were stored
// before, of which there must be none.
func goodWorkflow(db *pgxpool.Pool) *workflow.Workflow[int, int] {
	return workflow.Define("good", func(ctx context.Context, n int) (int, error) {
		for i := range 5 {
			name := fmt.Sprint("step-", i)
			if _, err := step.Run(ctx, name, func(ctx context.Context) (int, error) {
				_, err := db.Exec(ctx, `INSERT INTO calls SELECT $1, $2, count(*) FROM openworkflow.step_attempts
					WHERE workflow_run_id = $1 AND step_name = $2 AND status = 'completed'`, workflow.Info(ctx).ID, name)
				time.Sleep(lifeTime / 10) // the work of the step, so that deaths fall into it
				return i, err
			}); err != nil {
				return 0, err
			}
		}
		return n, nil
	})
}

func badWorkflow() *workflow.Workflow[string, int] {
	return workflow.Define("bad", func(ctx context.Context, kind string) (int, error) {
		return step.Run(ctx, "kill", func(context.Context) (int, error) {
			time.Sleep(lifeTime) // the work of the step, beside which others begin
			switch kind {
			case "exit":
				os.Exit(3)
			case "panic in a goroutine":
				go func() { panic("nobody recovers this") }()
			case "killed":
				return 0, syscall.Kill(os.Getpid(), syscall.SIGKILL) // as the kernel does when memory is short
			}
			select {}
		})
	})
}

// pods keeps worker processes running, as a kubelet does.
type pods struct {
	t     *testing.T
	url   string
	tasks sync.WaitGroup

	mu        sync.Mutex
	processes map[string]*exec.Cmd
	deaths    int
	stopped   bool
}

// run starts the pod's process, again and again until stop.
func (p *pods) run(name string) {
	p.tasks.Go(func() {
		for {
			var output bytes.Buffer
			command := exec.Command(os.Args[0]) //nolint:noctx // stop ends it
			command.Env = append(os.Environ(), workerURLVariable+"="+p.url, workerPodVariable+"="+name)
			command.Stderr = &output
			p.mu.Lock()
			if p.stopped {
				p.mu.Unlock()
				return
			}
			err := command.Start()
			p.processes[name] = command
			p.mu.Unlock()
			if err != nil {
				p.t.Errorf("start a worker: %v", err)
				return
			}
			if err := command.Wait(); err != nil {
				p.mu.Lock()
				if !p.stopped || !terminated(command) {
					p.deaths++
				}
				p.mu.Unlock()
				lines := strings.Split(strings.TrimSpace(output.String()), "\n")
				p.t.Logf("%s died: %v: %s", name, err, lines[max(0, len(lines)-1)])
			}
		}
	})
}

// terminated reports whether a process was ended by the SIGTERM of stop, which it does not handle
// before it has begun to work.
func terminated(command *exec.Cmd) bool {
	status, ok := command.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGTERM
}

func (p *pods) stop() {
	p.mu.Lock()
	p.stopped = true
	for _, process := range p.processes {
		if process.Process != nil {
			_ = process.Process.Signal(syscall.SIGTERM)
		}
	}
	p.mu.Unlock()
	p.tasks.Wait()
}

// TestDeaths_P3_ARunThatKillsItsWorkerFailsAndItsNeighboursEnd, with real processes that no
// manager watches: the container that is restarted finds out what its predecessor executed.
func TestDeaths_P3_ARunThatKillsItsWorkerFailsAndItsNeighboursEnd(t *testing.T) {
	for _, kind := range []string{"exit", "panic in a goroutine", "killed"} {
		t.Run(kind, func(t *testing.T) {
			b := newBench(t)
			db, err := pgxpool.New(t.Context(), b.url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(db.Close)
			if _, err := db.Exec(t.Context(), `CREATE TABLE calls (run_id text, step text, completed int)`); err != nil {
				t.Fatal(err)
			}
			good := make([]string, 20)
			for i := range 10 {
				good[i] = b.start(goodWorkflow(nil), fmt.Sprint(i))
			}
			bad := b.start(badWorkflow(), fmt.Sprintf("%q", kind))
			for i := 10; i < len(good); i++ {
				good[i] = b.start(goodWorkflow(nil), fmt.Sprint(i))
			}
			p := &pods{t: t, url: b.url, processes: map[string]*exec.Cmd{}}
			t.Cleanup(p.stop)
			p.run("pod-a")
			p.run("pod-b")

			want := openworkflow.Error{
				Name:    "WorkerDeathsExceededError",
				Message: `the worker process has died 3 times in a row in step "kill" of the run, without progress; the run is not executed again`,
			}
			if got := b.failed(bad); got != want {
				t.Errorf("the bad run has failed with %+v, want %+v", got, want)
			}
			for i, id := range good {
				if got := b.completed(id); got != fmt.Sprint(i) {
					t.Errorf("good run %d returned %s", i, got)
				}
			}
			p.stop()
			if p.deaths != deathsBound {
				t.Errorf("%d processes have died, want %d", p.deaths, deathsBound)
			}
			var calls, again int
			if err := db.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE completed > 0) FROM calls`).Scan(&calls, &again); err != nil {
				t.Fatal(err)
			}
			if calls < 100 || again > 0 {
				t.Errorf("%d calls of 100 steps, of which %d came after a stored completion", calls, again)
			}
		})
	}
}
