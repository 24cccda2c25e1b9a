package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/memstore"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// program returns the workflows of a case, which wait in multiples of unit. The first one is
// executed with the input.
type program func(unit time.Duration) []workflow.Definition

// engineCase is a program, and its result on either store.
type engineCase struct {
	program
	input string
	// deadline, not zero, is the run's deadline in real time.
	deadline time.Duration
	// signals are sent once a run waits for them.
	signals map[string]string
	// want is the run's end: its status, with output or error.
	want string
	// steps are its attempts as "kind name status output-or-error", in any order.
	steps []string
}

func one[In, Out any](fn func(ctx context.Context, unit time.Duration, in In) (Out, error), options ...workflow.Option) program {
	return func(unit time.Duration) []workflow.Definition {
		return []workflow.Definition{workflow.Define("wf", func(ctx context.Context, in In) (Out, error) {
			return fn(ctx, unit, in)
		}, options...)}
	}
}

func value[T any](v T) func(context.Context) (T, error) {
	return func(context.Context) (T, error) { return v, nil }
}

func quick(attempts int) step.Option {
	return step.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumInterval: time.Millisecond, MaximumAttempts: attempts})
}

// failing returns a function that fails the given number of times.
func failing(times int32) func(context.Context) (string, error) {
	var calls atomic.Int32
	return func(context.Context) (string, error) {
		if n := calls.Add(1); n <= times {
			return "", fmt.Errorf("failure %d", n)
		}
		return "ok", nil
	}
}

func sum(ctx context.Context, in []int) (total int, err error) {
	for _, n := range in {
		total, err = step.Run(ctx, "add", value(total+n))
		if err != nil {
			return 0, err
		}
	}
	return total, nil
}

// engineCases returns new cases for each store, because some count their calls.
func engineCases() map[string]engineCase {
	executions := new(atomic.Int32)
	type none = struct{}
	return map[string]engineCase{
		"a sequence in a loop": {
			program: one(func(ctx context.Context, _ time.Duration, in []int) (int, error) { return sum(ctx, in) }),
			input:   `[1, 2, 3]`,
			want:    `completed 6`,
			steps:   []string{`function add completed 1`, `function add:1 completed 3`, `function add:2 completed 6`},
		},
		"null in and out": {
			program: one(func(ctx context.Context, _ time.Duration, in *int) (*int, error) {
				return step.Run(ctx, "a", value(in))
			}),
			want:  `completed `,
			steps: []string{`function a completed `},
		},
		"retries": {
			program: one(func(fn func(context.Context) (string, error)) func(context.Context, time.Duration, none) (string, error) {
				return func(ctx context.Context, _ time.Duration, _ none) (string, error) {
					return step.Run(ctx, "a", fn, quick(3))
				}
			}(failing(2))),
			want: `completed "ok"`,
			steps: []string{
				`function a completed "ok"`, `function a failed failure 1`, `function a failed failure 2`,
			},
		},
		"a step that fails for good": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (string, error) {
				return step.Run(ctx, "a", func(context.Context) (string, error) { return "", errors.New("no") }, quick(2))
			}),
			want:  `failed no`,
			steps: []string{`function a failed no`, `function a failed no`},
		},
		"a failure that is caught": {
			program: one(func(ctx context.Context, unit time.Duration, _ none) (string, error) {
				_, err := step.Run(ctx, "a", func(context.Context) (int, error) { return 0, step.NonRetryable(errors.New("no")) })
				if err := step.Sleep(ctx, "s", unit); err != nil {
					return "", err
				}
				return fmt.Sprint("caught: ", err), nil
			}),
			want:  `completed "caught: step \"a\" failed: no"`,
			steps: []string{`function a failed no`, `sleep s completed `},
		},
		"a panic": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (string, error) {
				return step.Run(ctx, "a", func(context.Context) (string, error) { panic("no") }, quick(1))
			}),
			want:  `failed panic: no`,
			steps: []string{`function a failed panic: no`},
		},
		"an output that cannot be stored": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (string, error) {
				_, err := step.Run(ctx, "a", value("\x00"), quick(1))
				return fmt.Sprint(err != nil), nil
			}),
			want:  `completed "true"`,
			steps: []string{`function a failed value cannot be stored`},
		},
		"sleeps": {
			program: one(func(ctx context.Context, unit time.Duration, _ none) (string, error) {
				long := step.GoSleep(ctx, "long", 3*unit)
				if err := step.Sleep(ctx, "short", unit); err != nil {
					return "", err
				}
				if err := step.Sleep(ctx, "none", 0); err != nil {
					return "", err
				}
				_, err := long.Await()
				return "awake", err
			}),
			want:  `completed "awake"`,
			steps: []string{`sleep long completed `, `sleep none completed `, `sleep short completed `},
		},
		"parallel steps": {
			program: one(func(ctx context.Context, unit time.Duration, _ none) ([]int, error) {
				sleep := step.GoSleep(ctx, "sleep", unit)
				a, b := step.Go(ctx, "a", value(1)), step.Go(ctx, "a", value(2))
				var out []int
				for _, f := range []*step.Future[int]{b, a} {
					n, err := f.Await()
					if err != nil {
						return nil, err
					}
					out = append(out, n)
				}
				_, err := sleep.Await()
				return out, err
			}),
			want:  `completed [2, 1]`,
			steps: []string{`function a completed 1`, `function a:1 completed 2`, `sleep sleep completed `},
		},
		"a map": {
			program: one(func(ctx context.Context, _ time.Duration, in []int) ([]int, error) {
				return step.Map(ctx, "double", in, 2, func(_ context.Context, n int) (int, error) { return 2 * n, nil })
			}),
			input: `[1, 2, 3]`,
			want:  `completed [2, 4, 6]`,
			steps: []string{`function double completed 2`, `function double:1 completed 4`, `function double:2 completed 6`},
		},
		"a selection": {
			program: one(func(ctx context.Context, unit time.Duration, _ none) (int, error) {
				return step.Select(ctx, "first", step.GoSleep(ctx, "long", 1e5*unit), step.GoSleep(ctx, "short", unit))
			}),
			want:  `completed 1`,
			steps: []string{`function first completed 1`, `sleep long running `, `sleep short completed `},
		},
		"a child": {
			program: func(time.Duration) []workflow.Definition {
				child := workflow.Define("child", sum, workflow.Version("2"))
				return []workflow.Definition{workflow.Define("wf", func(ctx context.Context, in []int) (int, error) {
					return step.RunWorkflow(ctx, child, in)
				}), child}
			},
			input: `[3, 4]`,
			want:  `completed 7`,
			steps: []string{`workflow child completed 7`},
		},
		"a child that fails": {
			program: func(time.Duration) []workflow.Definition {
				child := workflow.Define("child", func(context.Context, none) (int, error) { return 0, errors.New("no") })
				return []workflow.Definition{workflow.Define("wf", func(ctx context.Context, in none) (int, error) {
					return step.RunWorkflow(ctx, child, in, step.Name("c"))
				}), child}
			},
			want:  `failed no`,
			steps: []string{`workflow c failed no`},
		},
		"a child that takes too long": {
			program: func(unit time.Duration) []workflow.Definition {
				child := workflow.Define("child", func(ctx context.Context, _ none) (int, error) {
					return 0, step.Sleep(ctx, "long", 1e5*unit)
				})
				return []workflow.Definition{workflow.Define("wf", func(ctx context.Context, in none) (int, error) {
					return step.RunWorkflow(ctx, child, in, step.Timeout(unit))
				}), child}
			},
			want:  `failed Timed out waiting for child workflow to complete`,
			steps: []string{`workflow child failed Timed out waiting for child workflow to complete`},
		},
		"a signal": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (map[string]int, error) {
				data, received, err := step.WaitForSignal[map[string]int](ctx, "s", step.Name("wait"))
				if !received {
					return nil, errors.New("not received")
				}
				return data, err
			}),
			signals: map[string]string{"s": `{"n":1}`},
			want:    `completed {"n": 1}`,
			steps:   []string{`signal-wait wait completed {"data": {"n": 1}}`},
		},
		"a signal that does not come": {
			program: one(func(ctx context.Context, unit time.Duration, _ none) (bool, error) {
				_, received, err := step.WaitForSignal[int](ctx, "s", step.Timeout(unit))
				return received, err
			}),
			want:  `completed false`,
			steps: []string{`signal-wait s completed `},
		},
		"a signal for nobody": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (int, error) {
				ids, err := step.SendSignal(ctx, "nobody", 1, step.Name("send"))
				return len(ids), err
			}),
			want:  `completed 0`,
			steps: []string{`signal-send send completed {"workflowRunIds": []}`},
		},
		"two waits for one signal": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (int, error) {
				step.GoWaitForSignal[int](ctx, "s", step.Name("first"))
				_, _, err := step.WaitForSignal[int](ctx, "s", step.Name("second"))
				return 0, err
			}),
			want: `failed Signal "s" is already being waited on by step "first"`,
		},
		"a workflow that is retried": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (int32, error) {
				n, err := step.Run(ctx, "a", value(1))
				if err != nil {
					return 0, err
				}
				if e := executions.Add(1); e <= 2 {
					return 0, fmt.Errorf("execution %d", e)
				}
				return int32(n) + executions.Load(), nil
			}, workflow.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 3})),
			want:  `completed 4, failed 2 times`,
			steps: []string{`function a completed 1`},
		},
		"a workflow whose retries are used up": {
			program: one(func(context.Context, time.Duration, none) (int, error) { return 0, errors.New("no") },
				workflow.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 2})),
			want: `failed no, failed 2 times`,
		},
		"sleeps do not use up the workflow's retries": {
			program: one(func(ctx context.Context, unit time.Duration, _ none) (int, error) {
				for range 3 {
					if err := step.Sleep(ctx, "s", unit); err != nil {
						return 0, err
					}
				}
				return 0, errors.New("no")
			}, workflow.Retry(workflow.RetryPolicy{InitialInterval: time.Millisecond, MaximumAttempts: 2})),
			want:  `failed no, failed 2 times`,
			steps: []string{`sleep s completed `, `sleep s:1 completed `, `sleep s:2 completed `},
		},
		"the step limit": {
			program: one(func(ctx context.Context, _ time.Duration, in []int) (int, error) { return sum(ctx, in) }, workflow.StepLimit(2)),
			input:   `[1, 2, 3]`,
			want:    `failed Exceeded the step limit of 2 attempts (current count: 2)`,
			steps:   []string{`function add completed 1`, `function add:1 completed 3`},
		},
		"an input of another type": {
			program: one(func(context.Context, time.Duration, int) (int, error) { return 0, nil }),
			input:   `"no"`,
			want:    `failed input must be int, not a JSON string`,
		},
		"a deadline": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (int, error) {
				<-ctx.Done()
				return 0, context.Cause(ctx)
			}),
			deadline: 50 * time.Millisecond,
			want:     `failed Workflow run deadline exceeded`,
		},
		"a deadline while it waits": {
			program: one(func(ctx context.Context, _ time.Duration, _ none) (int, error) {
				_, _, err := step.WaitForSignal[int](ctx, "never")
				return 0, err
			}),
			deadline: 50 * time.Millisecond,
			want:     `failed Workflow run deadline exceeded`,
		},
	}
}

// TestEngine executes each case on both stores.
func TestEngine(t *testing.T) {
	t.Parallel()
	t.Run("Postgres", func(t *testing.T) {
		t.Parallel()
		s := postgres(t)
		const unit = 10 * time.Millisecond
		for name, c := range engineCases() {
			t.Run(name, func(t *testing.T) { c.check(t, s, unit, func(id string) { awaitEnd(t, s, id) }) })
		}
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		for name, c := range engineCases() {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var served []openworkflow.Definition
				for _, d := range append(c.program(time.Hour), sender(time.Hour)) {
					served = append(served, durable.DefinitionOf(d).Definition)
				}
				s := memstore.New(served...)
				c.check(t, s, time.Hour, func(id string) {
					for {
						ended, err := s.AwaitIdle(t.Context(), id)
						switch {
						case err != nil:
							t.Fatal(err)
						case ended:
							return
						case !s.Advance(time.Time{}):
							t.Fatal("the run waits for nothing")
						}
					}
				})
			})
		}
	})
}

// message is the input of the sender: what to send, and to which run.
type message struct {
	Signal string
	Data   json.RawMessage
	To     string
}

// sender sends a signal until the run has received it. Other runs may receive it too: steps
// of ended runs still wait (R106).
func sender(unit time.Duration) *workflow.Workflow[message, int] {
	return workflow.Define("sender", func(ctx context.Context, m message) (int, error) {
		for {
			ids, err := step.SendSignal(ctx, m.Signal, m.Data)
			if err != nil || slices.Contains(ids, m.To) {
				return len(ids), err
			}
			if err := step.Sleep(ctx, "pause", unit); err != nil {
				return 0, err
			}
		}
	})
}

// check executes a case and compares.
func (c engineCase) check(t *testing.T, s Store, unit time.Duration, wait func(id string)) {
	t.Helper()
	workflows := append(c.program(unit), sender(unit))
	definitions := make([]durable.Definition, len(workflows))
	for i, w := range workflows {
		definitions[i] = durable.DefinitionOf(w)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	r, err := runner.New(s, definitions, runner.Options{PollInterval: 100 * time.Millisecond, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var task sync.WaitGroup
	task.Go(func() { _ = r.Run(ctx, time.Second) })
	defer func() {
		stop()
		task.Wait()
	}()

	runs := []store.NewRun{{ID: openworkflow.NewID(), WorkflowName: "wf", Input: json.RawMessage(c.input)}}
	if c.deadline > 0 {
		runs[0].DeadlineAt = new(time.Now().Add(c.deadline))
	}
	for signal, data := range c.signals {
		input, err := json.Marshal(message{signal, json.RawMessage(data), runs[0].ID})
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, store.NewRun{WorkflowName: "sender", Input: input})
	}
	if _, err := s.CreateRuns(t.Context(), runs); err != nil {
		t.Fatal(err)
	}
	id := runs[0].ID
	wait(id)

	b := bench{t, s}
	run := b.run(id)
	got := string(run.Status) + " " + string(run.Output)
	if run.Status == openworkflow.RunFailed {
		got = string(run.Status) + " " + openworkflow.DecodeError(run.Error).Message
	}
	if run.Failures > 1 {
		got += fmt.Sprintf(", failed %d times", run.Failures)
	}
	if got != c.want {
		t.Errorf("run has %s\nwant %s", got, c.want)
	}
	if c.steps == nil {
		return
	}
	var steps []string
	for _, a := range b.steps(id) {
		text := string(a.Output)
		if a.Error != nil {
			text = openworkflow.DecodeError(a.Error).Message
			if about, _, found := strings.Cut(text, ": "); found && about == store.ErrInvalidJSON.Error() {
				text = about // the rest are Postgres's words
			}
		}
		steps = append(steps, fmt.Sprintf("%s %s %s %s", a.Kind, a.StepName, a.Status, text))
	}
	slices.Sort(steps)
	if diff := cmp.Diff(c.steps, steps); diff != "" {
		t.Errorf("steps differ (-want +got):\n%s", diff)
	}
}

// awaitEnd waits until a run has ended. Meanwhile it does the manager's work: it fails runs
// past their deadline.
func awaitEnd(t *testing.T, s *store.Store, id string) {
	t.Helper()
	ends := make(chan struct{}, 1)
	ctx, stop := context.WithCancel(t.Context())
	var task sync.WaitGroup
	defer func() {
		stop()
		task.Wait()
	}()
	task.Go(func() {
		_ = s.ListenEnds(ctx, func() {
			select {
			case ends <- struct{}{}:
			default:
			}
		})
	})
	sweep := time.NewTicker(20 * time.Millisecond)
	defer sweep.Stop()
	const patience = time.Minute
	tooLong := time.After(patience)
	for !(bench{t, s}).run(id).Status.Terminal() {
		select {
		case <-ends:
		case <-sweep.C:
			if _, err := s.FailExpired(ctx, 10); err != nil {
				t.Fatal(err)
			}
		case <-tooLong:
			t.Fatalf("the run has not ended within %s", patience)
		}
	}
}
