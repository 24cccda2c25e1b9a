//go:build interop

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// process is a worker, or a client in TypeScript.
type process struct {
	lab     *lab
	command *exec.Cmd
	exited  chan struct{}

	mu     sync.Mutex
	killed bool

	// Of TypeScript processes: commands, and the calls that wait for their answers.
	stdin   io.Writer
	last    int
	answers map[int]chan answer
}

// worker starts a worker of a language that serves these workflows.
func (l *lab) worker(language string, workflows ...string) *process {
	l.Helper()
	if language == typescript {
		return l.node(workflows...)
	}
	command := exec.Command(goworker, workflows...) //nolint:noctx // killed by its caller or at the end of the test
	command.Env = append(os.Environ(),
		"OPENWORKFLOW_POSTGRES_URL="+l.peers, "OPENWORKFLOW_NAMESPACE_ID="+namespaceID,
		fmt.Sprintf("OPENWORKFLOW_LEASE_SECONDS=%d", int(goLease.Seconds())))
	command.Env = append(command.Env, l.env...)
	return l.start(command)
}

// node starts a TypeScript process. It is connected when the call returns, which means that it has
// also migrated the database, unless its login may not.
func (l *lab) node(workflows ...string) *process {
	l.Helper()
	command := exec.Command("node", append([]string{"typescript/peer.mjs"}, workflows...)...) //nolint:noctx // killed by its caller or at the end of the test
	command.Env = append(os.Environ(), "OPENWORKFLOW_POSTGRES_URL="+l.peers, "OPENWORKFLOW_NAMESPACE_ID="+namespaceID,
		fmt.Sprintf("RUN_MIGRATIONS=%t", !l.restricted))
	command.Env = append(command.Env, l.env...)
	stdin, err := command.StdinPipe()
	if err != nil {
		l.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		l.Fatal(err)
	}
	p := l.start(command)
	p.stdin, p.answers = stdin, map[int]chan answer{}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); err != nil {
		l.Fatalf("the TypeScript process did not connect: %q, %v", line, err)
	}
	go p.listen(lines)
	return p
}

func (l *lab) start(command *exec.Cmd) *process {
	l.Helper()
	p := &process{lab: l, command: command, exited: make(chan struct{})}
	command.Stderr = l.Output()
	if err := command.Start(); err != nil {
		l.Fatal(err)
	}
	go func() {
		_ = command.Wait()
		p.mu.Lock()
		if !p.killed {
			l.Errorf("%s has exited by itself: %s", filepath.Base(command.Path), command.ProcessState)
		}
		p.mu.Unlock()
		close(p.exited)
	}()
	l.Cleanup(p.kill)
	return p
}

// kill ends the process with SIGKILL.
func (p *process) kill() {
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	_ = p.command.Process.Kill()
	<-p.exited
}

type answer struct {
	ID     int
	Result json.RawMessage
	Error  string
}

func (p *process) listen(lines *bufio.Reader) {
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var a answer
		if err := json.Unmarshal(line, &a); err != nil {
			p.lab.Errorf("the TypeScript process wrote %q", line)
			return
		}
		p.mu.Lock()
		waiting := p.answers[a.ID]
		delete(p.answers, a.ID)
		p.mu.Unlock()
		waiting <- a
	}
}

// call has a TypeScript process execute a command and returns the answer, or the
// text of the error that it ended with.
func (p *process) call(op string, args map[string]any) (json.RawMessage, string) {
	p.lab.Helper()
	waiting := make(chan answer, 1)
	line := map[string]any{"op": op}
	maps.Copy(line, args)
	p.mu.Lock()
	p.last++
	line["id"] = p.last
	p.answers[p.last] = waiting
	encoded, err := json.Marshal(line)
	if err == nil {
		_, err = p.stdin.Write(append(encoded, '\n'))
	}
	p.mu.Unlock()
	if err != nil {
		p.lab.Fatalf("tell the TypeScript process to %s: %v", op, err)
	}
	ctx, cancel := context.WithTimeout(p.lab.Context(), patience)
	defer cancel()
	select {
	case a := <-waiting:
		return a.Result, a.Error
	case <-p.exited:
	case <-ctx.Done():
	}
	p.lab.Fatalf("the TypeScript process does not answer %s %v\n%s", op, args, p.lab.describe())
	return nil, ""
}
