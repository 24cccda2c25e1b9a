//go:build interop

package interop

import (
	"context"
	"encoding/json"
	"time"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/workflow"
)

// newRun is a run to start. Only workflow is needed.
type newRun struct {
	workflow, version, key  string
	input                   any
	availableAt, deadlineAt time.Time
}

// starter is what OpenWorkflow's client and ours have in common. Its methods end the
// test when they cannot work.
type starter interface {
	// start starts a run and returns its id.
	start(newRun) string
	// result waits for a run that this client started. It returns the output, or
	// how the failure is told.
	result(run string) (output json.RawMessage, failure string)
	cancel(run string)
	// signal returns the runs that received it.
	signal(name string, data any, key string) []string
}

func (l *lab) client(language string) starter {
	l.Helper()
	if language == typescript {
		return typescriptClient{l.node()}
	}
	return l.goClient()
}

func (l *lab) goClient() starter {
	l.Helper()
	return l.goClientAt(l.peers)
}

// goClientAt is goClient with a URL of its own.
func (l *lab) goClientAt(url string) starter {
	l.Helper()
	c, err := client.Open(l.Context(), client.Config{PostgresURL: url, NamespaceID: namespaceID})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(c.Close)
	return goClient{lab: l, client: c}
}

// typescriptClient is OpenWorkflow's.
type typescriptClient struct{ process *process }

func (c typescriptClient) start(r newRun) string {
	c.process.lab.Helper()
	args := map[string]any{"workflow": r.workflow}
	for name, value := range map[string]string{"version": r.version, "key": r.key} {
		if value != "" {
			args[name] = value
		}
	}
	for name, value := range map[string]time.Time{"availableAt": r.availableAt, "deadlineAt": r.deadlineAt} {
		if !value.IsZero() {
			args[name] = value
		}
	}
	if r.input != nil {
		args["input"] = r.input
	}
	return decode[string](c, "start", args)
}

func (c typescriptClient) result(run string) (json.RawMessage, string) {
	c.process.lab.Helper()
	return c.process.call("result", map[string]any{"run": run})
}

func (c typescriptClient) cancel(run string) {
	c.process.lab.Helper()
	decode[any](c, "cancel", map[string]any{"run": run})
}

func (c typescriptClient) signal(name string, data any, key string) []string {
	c.process.lab.Helper()
	args := map[string]any{"signal": name, "data": data}
	if key != "" {
		args["key"] = key
	}
	return decode[[]string](c, "signal", args)
}

// decode executes a command that must succeed.
func decode[T any](c typescriptClient, op string, args map[string]any) T {
	c.process.lab.Helper()
	var value T
	result, failure := c.process.call(op, args)
	if failure != "" {
		c.process.lab.Fatalf("%s %v: %s", op, args, failure)
	}
	if err := json.Unmarshal(result, &value); err != nil {
		c.process.lab.Fatalf("decode the answer to %s: %s: %v", op, result, err)
	}
	return value
}

// goClient is ours. It declares workflows that another program implements.
type goClient struct {
	lab    *lab
	client *client.Client
}

func (c goClient) start(r newRun) string {
	c.lab.Helper()
	var version []workflow.Option
	if r.version != "" {
		version = append(version, workflow.Version(r.version))
	}
	var options []client.StartOption
	if r.key != "" {
		options = append(options, client.IdempotencyKey(r.key))
	}
	if !r.availableAt.IsZero() {
		options = append(options, client.At(r.availableAt))
	}
	if !r.deadlineAt.IsZero() {
		options = append(options, client.Deadline(r.deadlineAt))
	}
	declared := workflow.Declare[any, json.RawMessage](r.workflow, version...)
	run, err := client.Start(c.lab.Context(), c.client, declared, r.input, options...)
	if err != nil {
		c.lab.Fatalf("start %s: %v", r.workflow, err)
	}
	return run.ID()
}

func (c goClient) result(run string) (json.RawMessage, string) {
	c.lab.Helper()
	ctx, cancel := context.WithTimeout(c.lab.Context(), patience)
	defer cancel()
	output, err := client.Attach[json.RawMessage](c.client, run).Result(ctx)
	switch {
	case ctx.Err() != nil:
		c.lab.Fatalf("run %s does not end\n%s", run, c.lab.describe())
	case err != nil:
		return nil, err.Error()
	}
	return output, ""
}

func (c goClient) cancel(run string) {
	c.lab.Helper()
	if err := c.client.Cancel(c.lab.Context(), run); err != nil {
		c.lab.Fatalf("cancel run %s: %v", run, err)
	}
}

func (c goClient) signal(name string, data any, key string) []string {
	c.lab.Helper()
	var options []client.SignalOption
	if key != "" {
		options = append(options, client.IdempotencyKey(key))
	}
	runs, err := c.client.Signal(c.lab.Context(), name, data, options...)
	if err != nil {
		c.lab.Fatalf("send signal %s: %v", name, err)
	}
	return runs
}
