//go:build bench

package bench

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program builds a command of the repository, once.
func program(t testing.TB, path string) string {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if built := programs.built[path]; built != "" {
		return built
	}
	out := filepath.Join(programs.dir, filepath.Base(path))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", "bench", "-o", out, path)
	cmd.Dir = repository
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("Build %s: %v\n%s", path, err, text)
	}
	programs.built[path] = out
	return out
}

// programs are the commands that have been built. TestMain makes and removes the
// directory.
var programs = struct {
	sync.Mutex
	dir   string
	built map[string]string
}{built: map[string]string{}}

const repository = "../.."

// process is a worker, or another program that answers health checks.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	log    *bytes.Buffer
	exited chan struct{}
	port   int
	// metrics is the port of a manager's metrics.
	metrics int
}

// slots is the default number of runs that a worker executes at once: enough to fill a
// flush while other runs wait for theirs. A slot costs little else.
const slots = 300

// startWorkers starts workers on the database, and returns when all are ready.
func (b *base) startWorkers(n int, environment ...string) []*process {
	b.t.Helper()
	workers := make([]*process, n)
	for i := range workers {
		port := freePort(b.t)
		workers[i] = start(b.t, port, append([]string{
			"OPENWORKFLOW_POSTGRES_URL=" + b.url,
			"OPENWORKFLOW_CONCURRENCY=" + strconv.Itoa(slots),
			"OPENWORKFLOW_HEALTH_PORT=" + strconv.Itoa(port),
		}, environment...), program(b.t, "./test/bench/worker"))
	}
	for _, w := range workers {
		w.awaitReady()
	}
	return workers
}

// start starts a program that answers health checks on the port. It is killed with the
// test, if it has not ended.
func start(t testing.TB, port int, environment []string, name string, arguments ...string) *process {
	t.Helper()
	cmd := exec.Command(name, arguments...) //nolint:noctx // stopped by its owner, in order or not
	p := &process{t: t, cmd: cmd, log: &bytes.Buffer{}, exited: make(chan struct{}), port: port}
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(p.kill)
	return p
}

func (p *process) awaitReady() {
	p.t.Helper()
	deadline := time.After(time.Minute)
	for {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", p.port)) //nolint:noctx // bounded by the deadline
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-p.exited:
			p.t.Fatalf("%s ended:\n%s", p.cmd.Path, p.log)
		case <-deadline:
			p.t.Fatalf("%s is not ready after a minute", p.cmd.Path)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// stop ends the processes gracefully, and returns the CPU time that they used.
func stop(processes []*process) time.Duration {
	for _, p := range processes {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	var cpu time.Duration
	for _, p := range processes {
		p.t.Helper()
		select {
		case <-p.exited:
		case <-time.After(time.Minute):
			p.t.Fatalf("%s does not stop:\n%s", p.cmd.Path, p.log)
		}
		cpu += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	}
	return cpu
}

func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // local
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
