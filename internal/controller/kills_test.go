package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

// managerVariable is set in the environment of a process that is a manager, to a managerProcess.
const managerVariable = "OPENWORKFLOW_TEST_MANAGER"

// managerProcess is what a manager in a process of its own has to know.
type managerProcess struct {
	Namespace, Host string
	CA, Cert, Key   []byte
}

// runManagerProcess is a manager until the process is killed, or the test is gone.
func runManagerProcess(text string) error {
	var p managerProcess
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	ctx := context.Background()
	o := defaultManager(&rest.Config{Host: p.Host, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: p.CA, CertData: p.Cert, KeyData: p.Key}})
	mgr, err := newManager(ctx, p.Namespace, o, funcr.New(func(prefix, args string) {
		fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.000"), os.Getpid(), prefix, args)
	}, funcr.Options{}))
	if err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// mortals are two managers of a world, processes which both take themselves for the leader.
type mortals struct {
	w       *world
	logs    *logBuffer
	running []*mortal // the older one first
}

// mortal is a manager that can be killed.
type mortal struct {
	*exec.Cmd
	stdin io.Closer
}

func (m *mortal) kill() {
	_ = m.Process.Kill()
	_ = m.Wait() // says that it was killed
	_ = m.stdin.Close()
}

// newMortalWorld returns a world with two managers that can be killed, a database on which a worker
// executes a workflow, and what has become of the signals.
func newMortalWorld(t *testing.T, definition durable.Definition) (*world, *mortals, *store.Store, *signalWatch) {
	t.Helper()
	w := newWorld(t)
	managers := w.startMortals()
	w.awaitBackend(w.backend(), v1alpha1.ReasonConnected)
	s := w.store()
	w.workOn(s, definition)
	return w, managers, s, w.watchSignals()
}

// startMortals starts the managers. They die with the test.
func (w *world) startMortals() *mortals {
	w.t.Helper()
	m := &mortals{w: w, logs: &logBuffer{}}
	w.t.Cleanup(func() {
		for _, process := range m.running {
			process.kill()
		}
		if w.t.Failed() {
			w.t.Logf("Log of the managers:\n%s", m.logs)
		}
	})
	m.start()
	m.start()
	return m
}

func (m *mortals) start() {
	m.w.t.Helper()
	c := cluster.manager
	text, err := json.Marshal(managerProcess{Namespace: m.w.Namespace, Host: c.Host, CA: c.CAData, Cert: c.CertData, Key: c.KeyData})
	if err != nil {
		m.w.t.Fatal(err)
	}
	process := &mortal{Cmd: exec.Command(os.Args[0])} //nolint:noctx // killed at the end of the test
	process.Env = append(os.Environ(), managerVariable+"="+string(text))
	process.Stderr = m.logs
	if process.stdin, err = process.StdinPipe(); err != nil {
		m.w.t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		m.w.t.Fatal(err)
	}
	m.running = append(m.running, process)
}

// killOne kills the older manager and starts another.
func (m *mortals) killOne() {
	m.w.t.Helper()
	m.running[0].kill()
	m.running = m.running[1:]
	m.start()
}

// killUntil kills a manager when the first signal is there, and each time that some have finished, until
// all have. It returns how many it has killed, and how many of them while signals waited for them.
func (m *mortals) killUntil(s *signalWatch, total int) (kills, midway int) {
	m.w.t.Helper()
	finished := 0
	for finished < total {
		next := min(total, finished+1+rand.IntN(max(8, total/50)))
		if kills == 0 {
			next = 0
		}
		created := 0
		if !s.await(func() error {
			if created, finished = len(s.latest), s.finished; finished < next || created == 0 {
				return fmt.Errorf("%d of %d signals have finished", finished, total)
			}
			return nil
		}) {
			return kills, midway
		}
		if finished < total {
			if m.killOne(); finished < created {
				midway++
			}
			kills++
		}
	}
	return kills, midway
}

// signalWatch follows the signals of a world. Its fields may be read in await's check only.
type signalWatch struct {
	w *world

	mu        sync.Mutex
	latest    map[string]*sig
	finished  int
	backwards []string // the changes of signals that had finished
	waiters   map[wake.Flag]bool
}

// watchSignals follows the signals from now on.
func (w *world) watchSignals() *signalWatch {
	w.t.Helper()
	c, err := client.NewWithWatch(cluster.admin, client.Options{Scheme: cluster.scheme})
	if err != nil {
		w.t.Fatal(err)
	}
	events, err := c.Watch(context.Background(), &v1alpha1.WorkflowSignalList{}, client.InNamespace(w.Namespace))
	if err != nil {
		w.t.Fatal(err)
	}
	s := &signalWatch{w: w, latest: map[string]*sig{}, waiters: map[wake.Flag]bool{}}
	var following sync.WaitGroup
	following.Go(func() {
		for event := range events.ResultChan() {
			if o, ok := event.Object.(*sig); ok && event.Type != watch.Deleted {
				s.see(o)
			}
		}
	})
	w.t.Cleanup(func() {
		events.Stop()
		following.Wait()
	})
	return s
}

func (s *signalWatch) see(o *sig) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.latest[o.Name]
	switch {
	case before != nil && signalFinished(before) && conditionReason(before.Status.Conditions) != conditionReason(o.Status.Conditions):
		s.backwards = append(s.backwards, fmt.Sprintf("%s was %+v, then %+v", o.Name, before.Status, o.Status))
	case signalFinished(o) && (before == nil || !signalFinished(before)):
		s.finished++
	}
	s.latest[o.Name] = o
	for waiter := range s.waiters {
		waiter.Set()
	}
}

// await calls check after each change until it returns no error, and reports that. It fails the test,
// but does not end it, after a minute without a change. It may be called concurrently.
func (s *signalWatch) await(check func() error) (ok bool) {
	changed := wake.New()
	s.mu.Lock()
	s.waiters[changed] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.waiters, changed)
		s.mu.Unlock()
	}()
	for {
		s.mu.Lock()
		err := check()
		s.mu.Unlock()
		if err == nil {
			return true
		}
		timeout := time.NewTimer(time.Minute)
		select {
		case <-changed:
			timeout.Stop()
		case <-timeout.C:
			s.w.t.Errorf("nothing has changed for a minute: %v", err)
			return false
		}
	}
}

// awaitFinished waits until signals have finished, and returns them.
func (s *signalWatch) awaitFinished(signals ...*sig) (finished []*sig, ok bool) {
	ok = s.await(func() error {
		finished = nil
		for _, signal := range signals {
			o := s.latest[signal.Name]
			if o == nil || !signalFinished(o) {
				return fmt.Errorf("%s has not finished: %+v", signal.Name, o)
			}
			finished = append(finished, o)
		}
		return nil
	})
	return finished, ok
}
