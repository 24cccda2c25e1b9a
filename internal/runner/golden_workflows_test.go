package runner_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/runner"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// object is a JSON object.
type object = map[string]any

// define is workflow.Define for workflows of any input and output.
func define(name string, fn func(ctx context.Context, in any) (any, error), options ...workflow.Option) *workflow.Workflow[any, any] {
	return workflow.Define(name, fn, options...)
}

// scenarios are the Go forms of the golden scenarios. Where a scenario is about what only
// TypeScript can do, its Go form is what an author would write instead.
var scenarios = map[string]scenario{
	"01-function-steps": {
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{define("values", func(ctx context.Context, in any) (any, error) {
				for _, s := range []struct {
					name  string
					value any
				}{
					{"object", object{"b": 1, "a": object{"y": []any{1, "x", true}, "z": nil}}},
					{"string", "hé ☃ \u2028 <>& \"q\" \\ \n"},
					{"empty-string", ""},
					{"int", 42},
					{"float", 0.1},
					{"big", 1e21},
					{"max-safe", 9007199254740991},
					{"neg-zero", math.Copysign(0, -1)},
					{"nan", nil},
					{"infinity", nil},
					{"true", true},
					{"false", false},
					{"null", nil},
					{"undefined", nil},
					{"date", time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)},
					{"array-with-undefined", []any{1, nil, 3}},
					{"empty-object", struct{}{}},
					{"empty-array", []any{}},
					{"map", object{}},
					{"gate", "opened"},
				} {
					if _, err := step.Run(ctx, s.name, x.gives(s.value)); err != nil {
						return nil, err
					}
				}
				run := []string{"id", "workflowName", "createdAt", "startedAt"} // TypeScript's form of workflow.Info
				return object{"input": in, "runKeys": run, "version": nil}, nil
			})}
		},
	},

	"02-empty-and-scalar-io": {
		workflows: func(*trial) []workflow.Definition {
			return []workflow.Definition{
				define("void", func(context.Context, any) (any, error) { return nil, nil }),
				define("scalar", func(ctx context.Context, in any) (any, error) {
					return fmt.Sprintf("%s:%s", in, workflow.Info(ctx).Version), nil
				}, workflow.Version("v2")),
				define("date-out", func(context.Context, any) (any, error) {
					return openworkflow.FormatTime(time.UnixMilli(0)), nil
				}),
			}
		},
	},

	"03-step-name-collisions": {
		workflows: func(x *trial) []workflow.Definition {
			child := define("foo", func(context.Context, any) (any, error) { return "child", nil })
			return []workflow.Definition{child, define("collide", func(ctx context.Context, _ any) (any, error) {
				var outputs []any
				run := func(name, output string) error {
					out, err := step.Run(ctx, name, x.gives(output))
					outputs = append(outputs, out)
					return err
				}
				for i, name := range []string{"foo", "foo:2", "foo", "foo:1", "foo", "foo:2", "foo", "foo:1", "foo:3", "foo"} {
					if err := run(name, string(rune('a'+i))); err != nil {
						return nil, err
					}
				}
				if err := step.Sleep(ctx, "foo", 10*time.Millisecond); err != nil {
					return nil, err
				}
				out, err := step.RunWorkflow(ctx, child, nil)
				if err != nil {
					return nil, err
				}
				sent, err := step.SendSignal(ctx, "foo", nil)
				if err != nil {
					return nil, err
				}
				received, err := waitFor(ctx, "foo", step.Timeout(20*time.Millisecond))
				if err != nil {
					return nil, err
				}
				all := slices.Concat(outputs, []any{out, object{"workflowRunIds": sent}, received})
				if err := run("", "empty-name"); err != nil {
					return nil, err
				}
				return all, run("", "empty-name-2")
			})}
		},
	},

	"04-sleep": {
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{define("sleepy", func(ctx context.Context, _ any) (any, error) {
				before, err := step.Run(ctx, "before", x.gives(1))
				if err != nil {
					return nil, err
				}
				if err := step.Sleep(ctx, "pause", 300*time.Millisecond); err != nil {
					return nil, err
				}
				if err := step.Sleep(ctx, "pause", 250*time.Millisecond); err != nil {
					return nil, err
				}
				after, err := step.Run(ctx, "after", x.gives(2))
				return []any{before, after}, err
			})}
		},
	},

	"05-child-success": {
		workflows: func(x *trial) []workflow.Definition {
			type in struct {
				V int `json:"v"`
			}
			child := workflow.Define("child", func(ctx context.Context, in in) (int, error) {
				return step.Run(ctx, "double", counted(x, func(context.Context) (int, error) { return 2 * in.V, nil }))
			}, workflow.Version("c1"))
			return []workflow.Definition{child, define("parent", func(ctx context.Context, _ any) (any, error) {
				a, err := step.RunWorkflow(ctx, child, in{V: 21})
				if err != nil {
					return nil, err
				}
				b, err := step.RunWorkflow(ctx, child, in{V: 1}, step.Name("named-child"), step.Timeout(10*time.Minute))
				return object{"a": a, "b": b}, err
			})}
		},
		script: []func(x *trial){nil, nil, func(x *trial) {
			// At stage 1, TypeScript had ended the child and not yet woken the parent. A sweep
			// finds such a parent (R171).
			if _, err := x.store.Sweep(x.Context(), 0, 100); err != nil {
				x.Fatal(err)
			}
			x.notify()
		}},
	},

	"06-child-failures": {
		workflows: func(*trial) []workflow.Definition {
			bad := define("bad-child", func(context.Context, any) (any, error) { return nil, &TypeError{"child boom"} })
			slow := define("slow-child", func(ctx context.Context, _ any) (any, error) {
				return nil, step.Sleep(ctx, "zzz", time.Hour)
			})
			return []workflow.Definition{
				bad, slow,
				define("parent-of-failed", func(ctx context.Context, _ any) (any, error) {
					return step.RunWorkflow(ctx, bad, any(object{"a": 1}))
				}),
				define("parent-of-canceled", func(ctx context.Context, _ any) (any, error) {
					return step.RunWorkflow(ctx, slow, nil)
				}),
				define("parent-timeout", func(ctx context.Context, _ any) (any, error) {
					return step.RunWorkflow(ctx, slow, nil, step.Timeout(50*time.Millisecond))
				}),
				define("parent-catches", func(ctx context.Context, _ any) (any, error) {
					_, err := step.RunWorkflow(ctx, bad, nil)
					var failed *step.Error
					if !errors.As(err, &failed) {
						return nil, fmt.Errorf("the child should have failed, and not with %w", err)
					}
					err = step.Sleep(ctx, "after-catch", 10*time.Millisecond)
					return object{"name": "StepError", "message": failed.Message, "causeName": failed.Name}, err
				}),
				define("parent-schema", func(context.Context, any) (any, error) {
					return nil, errors.New("bad input; really")
				}),
			}
		},
		script: []func(x *trial){
			func(x *trial) {
				x.result(x.startRuns(0, "parent-of-failed")[0])
				id := x.startRuns(0, "parent-of-canceled")[0]
				x.parked(id)
				child, _ := x.childOf(id, "slow-child")
				x.parked(child.ID)
			},
			func(x *trial) {
				id := x.runOf("parent-of-canceled", 0).text("id")
				child, _ := x.childOf(id, "slow-child")
				x.cancel(child.ID)
				x.result(id)
				x.startRuns(1)
			},
		},
		depart: func(x *trial, want map[string]*runEnd) {
			if x.isOpen(x.runOf("parent-schema", 0)) {
				// Go has no schemas: a workflow validates the input of its child before the call.
				want["parent-schema 0"].Steps = nil
			}
		},
	},

	"07-signals": {
		workflows: func(*trial) []workflow.Definition {
			type in struct {
				Signal  string          `json:"sig"`
				Timeout json.RawMessage `json:"timeout"`
			}
			return []workflow.Definition{
				define("named-waiter", func(ctx context.Context, _ any) (any, error) {
					return waitFor(ctx, "approval:1", step.Name("wait-approval"))
				}),
				workflow.Define("waiter", func(ctx context.Context, in in) (any, error) {
					timeout, err := durationOf(strings.Trim(string(in.Timeout), `"`))
					if err != nil {
						return nil, err
					}
					return waitFor(ctx, in.Signal, step.Timeout(timeout))
				}),
				define("sender", func(ctx context.Context, _ any) (any, error) {
					a, err := step.SendSignal(ctx, "fan", object{"v": []any{1, nil}})
					if err != nil {
						return nil, err
					}
					b, err := step.SendSignal(ctx, "nobody", nil)
					return object{"a": object{"workflowRunIds": a}, "b": object{"workflowRunIds": b}}, err
				}),
			}
		},
		script: []func(x *trial){
			func(x *trial) { x.parked(x.startRuns(0)[0]) },
			func(x *trial) {
				const yes = `{"by": "Ann", "approved": true}`
				if first, again := x.send("approval:1", yes, "k1"), x.send("approval:1", yes, "k1"); first != 1 || again != 1 {
					x.Errorf("the signal was delivered to %d runs, and again to %d, want the same one", first, again)
				}
			},
			func(x *trial) {
				x.result(x.runOf("named-waiter", 0).text("id"))
				for n := range 2 {
					x.parked(x.create(x.runOf("waiter", n)))
				}
				x.result(x.startRuns(2, "sender")[0])
				x.parked(x.create(x.runOf("waiter", 2)))
				if n := x.send("nullsig", `null`, ""); n != 1 {
					x.Errorf("the signal without data was delivered to %d runs", n)
				}
				x.create(x.runOf("waiter", 3))
			},
			func(x *trial) {
				id := x.startRuns(3)[0]
				x.parked(id)
				x.cancel(id)
				if n := x.send("ghost", `1`, ""); n != 1 {
					x.Errorf("the signal was delivered to %d runs, want the canceled one (R106)", n)
				}
			},
		},
	},

	"08-signal-schema-and-conflict": {
		workflows: func(*trial) []workflow.Definition {
			return []workflow.Definition{
				workflow.Define("schema-bad", func(ctx context.Context, _ any) (any, error) {
					v, _, err := step.WaitForSignal[refused](ctx, "sb")
					return v, err
				}),
				workflow.Define("schema-transform", func(ctx context.Context, _ any) (any, error) {
					v, _, err := step.WaitForSignal[wrapped](ctx, "st")
					return object{"data": v}, err
				}),
				define("conflict", func(ctx context.Context, _ any) (any, error) {
					a := step.GoWaitForSignal[any](ctx, "dup", step.Name("a"), step.Timeout(time.Hour))
					b := step.GoWaitForSignal[any](ctx, "dup", step.Name("b"), step.Timeout(time.Hour))
					if _, err := a.Await(); err != nil {
						return nil, err
					}
					return b.Await()
				}),
			}
		},
		script: []func(x *trial){func(x *trial) {
			for _, id := range x.startRuns(0) {
				x.parked(id)
			}
			x.send("sb", `1`, "")
			x.send("st", `1`, "")
		}},
		depart: func(x *trial, want map[string]*runEnd) {
			if x.from >= 0 {
				return
			}
			// The attempt of a wait is what was delivered; a payload that does not fit the Go
			// type fails the run (Departures, R99c).
			want["schema-bad 0"].Error = `{"message":"decode what step \"sb\" received into runner_test.refused: nope","name":"Error"}`
			bad := &want["schema-bad 0"].Steps[0]
			bad.Status, bad.Output, bad.Error = "completed", `{"data":1}`, "null"
			want["schema-transform 0"].Steps[0].Output = `{"data":1}`
		},
	},

	"09-step-retries-and-errors": {
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{workflow.Define("thrower", func(ctx context.Context, kind string) (any, error) {
				return step.Run(ctx, "boom", counted(x, func(context.Context) (any, error) { return thrown(kind) }),
					step.Retry(workflow.RetryPolicy{InitialInterval: 40 * time.Millisecond, MaximumAttempts: 2}))
			})}
		},
		script: []func(x *trial){
			nil,
			func(x *trial) { x.result(x.runOf("thrower", 0).text("id")) },
		},
		depart: func(x *trial, want map[string]*runEnd) {
			for n, payload := range map[int]string{
				// A Go error has a type, and only an error can be returned as one.
				4: `{"message":"just a string","name":"Error"}`,
				5: `{"message":"[object Object]","name":"Error"}`,
				6: `{"message":"undefined","name":"Error"}`,
				7: `{"message":"7","name":"Error"}`,
				// The texts of encoders and databases differ.
				10: `{"message":"encode the result: json: unsupported type: func()","name":"UnsupportedTypeError"}`,
				11: `{"message":"value cannot be stored: ERROR: unsupported Unicode escape sequence (SQLSTATE 22P05) ` +
					`(\\u0000 cannot be converted to text)","name":"Error"}`,
			} {
				if !x.isOpen(x.runOf("thrower", n)) {
					continue
				}
				end := want[fmt.Sprintf("thrower %d", n)]
				end.Error = payload
				for i := range end.Steps {
					end.Steps[i].Error = payload
				}
			}
		},
	},

	"10-retry-then-success": {
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{define("flaky", func(ctx context.Context, _ any) (any, error) {
				first, err := step.Run(ctx, "ok-first", x.gives("cached"))
				if err != nil {
					return nil, err
				}
				second, err := step.Run(ctx, "flaky", counted(x, func(ctx context.Context) (string, error) {
					if n := x.nth(ctx); n <= 2 {
						return "", fmt.Errorf("fail %d", n)
					}
					return "ok", nil
				}), step.Retry(workflow.RetryPolicy{InitialInterval: 30 * time.Millisecond}))
				return fmt.Sprint(first, second), err
			})}
		},
	},

	"11-workflow-level-failures": {
		workflows: func(x *trial) []workflow.Definition {
			fails := func(text string) func(context.Context, any) (any, error) {
				return func(context.Context, any) (any, error) { return nil, errors.New(text) }
			}
			quick := workflow.RetryPolicy{InitialInterval: 25 * time.Millisecond, MaximumAttempts: 2}
			return []workflow.Definition{
				define("wf-default", fails("outside step")),
				// Failures are counted here, and claims there (Departures, R97). So a run that
				// TypeScript has begun is executed once more before it has failed as often as it
				// may.
				define("wf-retry2", fails("outside step, retried"), workflow.Retry(quick)),
				define("wf-sleeps-eat-budget", func(ctx context.Context, _ any) (any, error) {
					if err := step.Sleep(ctx, "s1", 5*time.Millisecond); err != nil {
						return nil, err
					}
					if err := step.Sleep(ctx, "s2", 4*time.Millisecond); err != nil {
						return nil, err
					}
					return nil, errors.New("after two sleeps")
				}, workflow.Retry(quick)),
				define("wf-infinity", fails("infinity")), // what TypeScript takes Infinity for (R96)
				define("wf-bad-sleep", func(ctx context.Context, _ any) (any, error) {
					d, err := durationOf("soon")
					if err != nil {
						return nil, err
					}
					return nil, step.Sleep(ctx, "never", d)
				}),
				define("wf-bad-timeout", fails("Timeout must be a non-negative number")),
				define("wf-catches-step", func(ctx context.Context, _ any) (any, error) {
					_, err := step.Run(ctx, "caught", counted(x, func(context.Context) (any, error) {
						return nil, errors.New("caught error")
					}), step.Retry(workflow.RetryPolicy{MaximumAttempts: 1}))
					var failed *step.Error
					if !errors.As(err, &failed) {
						return nil, fmt.Errorf("the step should have failed, and not with %w", err)
					}
					return failed.Message, step.Sleep(ctx, "pause", 10*time.Millisecond)
				}),
			}
		},
		depart: func(x *trial, want map[string]*runEnd) {
			if x.isOpen(x.runOf("wf-catches-step", 0)) {
				// A step that failed for good stays failed (Departures, R94).
				end := want["wf-catches-step 0"]
				end.Steps = end.Steps[1:]
			}
		},
	},

	"12-parallel": {
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{
				define("all-ok", func(ctx context.Context, _ any) (any, error) {
					var parts []*step.Future[any]
					for _, output := range []string{"a", "b", "c"} {
						parts = append(parts, step.Go(ctx, "p", x.gives(output)))
					}
					return all(parts...)
				}),
				define("fn-with-sleep", func(ctx context.Context, _ any) (any, error) {
					slow := step.Go(ctx, "slow-fn", x.gives("slow"))
					if err := step.Sleep(ctx, "nap", 100*time.Millisecond); err != nil {
						return nil, err
					}
					return slow.Await()
				}),
				define("one-fails", func(ctx context.Context, _ any) (any, error) {
					fails := step.Go(ctx, "fails", counted(x, func(ctx context.Context) (any, error) {
						if x.nth(ctx) == 1 {
							return nil, errors.New("first time")
						}
						return 1, nil
					}), step.Retry(workflow.RetryPolicy{InitialInterval: 60 * time.Millisecond}))
					inFlight := step.Go(ctx, "in-flight", x.gives(2))
					return all(fails, inFlight)
				}),
			}
		},
	},

	"13-sleep-plus-signal-spin": {
		workflows: func(*trial) []workflow.Definition {
			return []workflow.Definition{define("spin", func(ctx context.Context, _ any) (any, error) {
				signal := step.GoWaitForSignal[any](ctx, "go", step.Timeout(time.Hour))
				nap := step.GoSleep(ctx, "long", 1500*time.Millisecond)
				got, err := signal.Await()
				if err != nil {
					return nil, err
				}
				_, err = nap.Await()
				return []any{object{"data": got.Data}, nil}, err
			})}
		},
		script: []func(x *trial){nil, func(x *trial) {
			x.parked(x.runOf("spin", 0).text("id"))
			if n := x.send("go", `1`, ""); n != 1 {
				x.Errorf("the signal was delivered to %d runs", n)
			}
		}},
		check: func(x *trial) {
			// TypeScript claims the run over and over until the sleep has elapsed (R84).
			run := x.runOf("spin", 0)
			before := x.loaded[run.text("id")].number("attempts")
			if after := x.result(run.text("id")).Attempts; x.isOpen(run) && after > before+3 {
				x.Errorf("the run was claimed %d times", after-before)
			}
		},
	},

	"14-cancel": {
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{
				define("sleeper", func(ctx context.Context, _ any) (any, error) { return nil, step.Sleep(ctx, "zz", time.Hour) }),
				define("in-flight", func(ctx context.Context, _ any) (any, error) {
					return step.Run(ctx, "slow", counted(x, func(context.Context) (any, error) {
						<-x.open
						return nil, nil
					}))
				}),
				define("quick", func(context.Context, any) (any, error) { return 1, nil }),
			}
		},
		script: []func(x *trial){
			func(x *trial) {
				x.cancel(x.create(x.runOf("sleeper", 0), func(r *store.NewRun) { r.Suspended = true }))
				parked := x.create(x.runOf("sleeper", 1))
				x.parked(parked)
				x.cancel(parked)
				x.startRuns(0, "in-flight")
			},
			func(x *trial) {
				id := x.runOf("in-flight", 0).text("id")
				x.await(id, "shown with its step", func(*openworkflow.Run) bool { return len(x.steps(id)) > len(x.began(id)) })
				x.cancel(id)
				x.cancel(id) // once more changes nothing
			},
			func(x *trial) {
				close(x.open) // the function returns, and its result is refused
				quick := x.startRuns(2)[0]
				x.result(quick)
				x.cancel(quick) // changes nothing either
			},
		},
		depart: func(x *trial, want map[string]*runEnd) {
			if x.from == 0 { // the function of the dead worker, and ours
				end := want["in-flight 0"]
				end.Steps = append(end.Steps, end.Steps[0])
			}
		},
	},

	"15-deadline": {
		workflows: func(x *trial) []workflow.Definition {
			overrun := counted(x, func(ctx context.Context) (any, error) {
				<-ctx.Done() // the deadline
				return nil, nil
			})
			return []workflow.Definition{
				define("ok", func(context.Context, any) (any, error) { return "ok", nil }),
				define("fails-step", func(ctx context.Context, _ any) (any, error) {
					return step.Run(ctx, "x", counted(x, func(context.Context) (any, error) { return nil, errors.New("step err") }),
						step.Retry(workflow.RetryPolicy{InitialInterval: time.Minute}))
				}),
				define("late", func(ctx context.Context, _ any) (any, error) {
					if _, err := step.Run(ctx, "slow", overrun); err != nil {
						return nil, err
					}
					return nil, errors.New("too late")
				}),
				define("overrun-success", func(ctx context.Context, _ any) (any, error) {
					_, err := step.Run(ctx, "slow", overrun)
					return "done after deadline", err
				}),
				define("parks", func(ctx context.Context, _ any) (any, error) { return nil, step.Sleep(ctx, "z", time.Hour) }),
			}
		},
		script: []func(x *trial){func(x *trial) {
			in := func(d time.Duration) func(*store.NewRun) {
				return func(r *store.NewRun) { r.DeadlineAt = new(time.Now().Add(d)) }
			}
			x.sweep(x.create(x.runOf("ok", 0), in(-time.Second)))
			late := x.create(x.runOf("late", 0), in(8*time.Second))
			overrun := x.create(x.runOf("overrun-success", 0), in(8*time.Second))
			x.result(x.create(x.runOf("fails-step", 0), in(30*time.Second)))
			x.result(late)
			x.result(overrun)
			parks := x.create(x.runOf("parks", 0), in(24*time.Hour))
			x.parked(parks)
			x.exec(`UPDATE openworkflow.workflow_runs SET deadline_at = now() WHERE id = $1`, parks)
			x.sweep(parks)
		}},
		depart: func(x *trial, want map[string]*runEnd) {
			if x.from < 0 {
				// The error of a failed step says that it is not retried although its policy would
				// allow that (Departures).
				want["fails-step 0"].Steps[0].Error = `{"message":"step err","name":"Error","nonRetryable":true}`
			}
		},
	},

	"16-unknown-workflow": {
		workflows: func(*trial) []workflow.Definition {
			return []workflow.Definition{define("known", func(context.Context, any) (any, error) { return "known", nil })}
		},
		depart: func(x *trial, want map[string]*runEnd) {
			if x.from < 0 {
				for _, end := range want {
					end.Error = "null" // a worker claims what it serves (Departures, R62)
				}
			}
		},
		check: func(x *trial) {
			x.exec(`UPDATE openworkflow.workflow_runs SET available_at = now() - interval '1 minute'`)
			known := define("known", nil)
			x.notify()
			x.completed(x.start(known, `{}`))
			for _, run := range x.read("workflow_runs") {
				if claims := x.loaded[run.text("id")].number("attempts"); run.text("status") == "pending" && run.number("attempts") != claims {
					x.Errorf("a run of %s, which nobody serves, was claimed", run.text("workflow_name"))
				}
			}
			done := func(context.Context, any) (any, error) { return "done", nil }
			x.work(runner.Options{}, define("missing", done), define("known", done, workflow.Version("v9")))
			for _, w := range []string{"missing", "known"} {
				if got := x.completed(x.runOf(w, 0).text("id")); got != `"done"` {
					x.Errorf("the output of %s is %s", w, got)
				}
			}
		},
	},

	"17-crash-recovery": {
		handmade: true,
		workflows: func(x *trial) []workflow.Definition {
			child := define("cchild", func(context.Context, any) (any, error) { return "c", nil })
			return []workflow.Definition{child, define("crashy", func(ctx context.Context, _ any) (any, error) {
				a, err := step.Run(ctx, "work", x.gives("done"))
				if err != nil {
					return nil, err
				}
				b, err := step.RunWorkflow(ctx, child, any(object{"q": 1}), step.Name("kid"))
				if err != nil {
					return nil, err
				}
				c, err := step.SendSignal(ctx, "ping", nil)
				return object{"a": a, "b": b, "c": object{"workflowRunIds": c}}, err
			})}
		},
	},

	"18-step-limit": {
		runsOnly: true,
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{define("many", func(ctx context.Context, _ any) (any, error) {
				for {
					if _, err := step.Run(ctx, "s", x.gives(nil)); err != nil {
						return nil, err
					}
				}
			})}
		},
		check: func(x *trial) {
			if n := len(x.read("step_attempts")); x.from < 0 && n != 1000 {
				x.Errorf("there are %d attempts, want 1000", n)
			}
		},
	},

	"19-swallowed-park": {
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{
				define("catch-sleep", func(ctx context.Context, _ any) (out any, err error) {
					func() {
						defer func() { out = recover() }()
						err = step.Sleep(ctx, "s", time.Hour)
					}()
					if _, err := step.Run(ctx, "after", x.gives(1)); err != nil {
						return nil, err
					}
					return out, err
				}),
				define("allsettled", func(ctx context.Context, _ any) (any, error) {
					s := step.GoSleep(ctx, "s", time.Hour)
					f := step.Go(ctx, "f", x.gives(1))
					_, sErr := s.Await()
					_, fErr := f.Await()
					return []any{sErr, fErr}, nil
				}),
				define("nested", func(ctx context.Context, _ any) (any, error) {
					return step.Run(ctx, "outer", counted(x, func(ctx context.Context) (any, error) {
						return nil, step.Sleep(ctx, "inner", time.Hour)
					}), step.Retry(workflow.RetryPolicy{MaximumAttempts: 1}))
				}),
			}
		},
		depart: func(x *trial, want map[string]*runEnd) {
			if x.from >= 0 {
				return
			}
			// An author's code cannot catch a park (decision 9): the runs wait.
			for _, name := range []string{"catch-sleep 0", "allsettled 0"} {
				want[name].Status, want[name].Output = "running", "null"
			}
			want["catch-sleep 0"].Steps = want["catch-sleep 0"].Steps[1:] // without "after"
			// Steps do not nest: the inner one is refused.
			payload := `{"message":"step \"inner\" inside step \"outer\": steps do not nest: ` +
				`use the workflow's context, outside other steps","name":"Error"}`
			nested := want["nested 0"]
			nested.Steps = nested.Steps[1:]
			nested.Error, nested.Steps[0].Error = payload, payload
		},
	},

	"20-timeouts-forms": {
		workflows: func(x *trial) []workflow.Definition {
			until := time.Date(2031, 5, 6, 7, 8, 9, 10e6, time.UTC).Add(x.later)
			var workflows []workflow.Definition
			for name, option := range map[string]step.SignalOption{
				"sig-num":     step.Timeout(90 * time.Second),
				"sig-frac":    step.Timeout(1500*time.Millisecond + 900*time.Microsecond),
				"sig-str":     step.Timeout(90 * time.Minute),
				"sig-bare":    step.Timeout(2500 * time.Millisecond),
				"sig-date":    step.TimeoutAt(until),
				"sig-month":   step.Timeout(2629800 * time.Second),
				"sig-year":    step.Timeout(31557600 * time.Second),
				"sig-default": step.Name("sig-default"), // no timeout
			} {
				workflows = append(workflows, define(name, func(ctx context.Context, _ any) (any, error) {
					return waitFor(ctx, name, option)
				}))
			}
			for _, text := range []string{"2 hours", "90min", "1w", "3 Days"} {
				workflows = append(workflows, define("slp-"+text, func(ctx context.Context, _ any) (any, error) {
					d, err := durationOf(text)
					if err != nil {
						return nil, err
					}
					return nil, step.Sleep(ctx, "s", d)
				}))
			}
			return workflows
		},
		depart: func(_ *trial, want map[string]*runEnd) {
			// The capture ended before these timed out; the trial does not.
			for _, name := range []string{"sig-frac", "sig-bare"} {
				want[name+" 0"].Status = "completed"
				want[name+" 0"].Steps[0].Status = "completed"
			}
		},
	},

	"21-trace-context": {
		workflows: func(*trial) []workflow.Definition {
			child := define("tchild", func(context.Context, any) (any, error) { return 1, nil })
			return []workflow.Definition{child, define("tparent", func(ctx context.Context, _ any) (any, error) {
				return step.RunWorkflow(ctx, child, nil)
			})}
		},
	},

	"22-legacy-rows": {
		handmade: true,
		workflows: func(x *trial) []workflow.Definition {
			return []workflow.Definition{define("legacy", func(ctx context.Context, _ any) (any, error) {
				old, err := step.Run(ctx, "old", x.gives("new-output"))
				if err != nil {
					return nil, err
				}
				if err := step.Sleep(ctx, "nap", time.Hour); err != nil {
					return nil, err
				}
				return old, step.Sleep(ctx, "nap2", time.Hour)
			})}
		},
		before: func(g golden) stage {
			s := stage{Stage: "deprecated statuses", DBNow: g.Stages[0].Runs[0].time("started_at")}
			null := json.RawMessage("null")
			for _, run := range g.Stages[0].Runs {
				run = maps.Clone(run)
				run["status"], run["available_at"] = quoted("sleeping"), quoted(s.DBNow.Format(time.RFC3339Nano))
				run["worker_id"], run["finished_at"], run["output"], run["attempts"] = null, null, null, json.RawMessage("1")
				s.Runs = append(s.Runs, run)
			}
			for _, step := range g.Stages[0].Steps {
				step = maps.Clone(step)
				if strings.HasPrefix(step.text("step_name"), "nap") {
					step["status"], step["finished_at"] = quoted("running"), null
				}
				s.Steps = append(s.Steps, step)
			}
			return s
		},
	},
}

// waitFor is TypeScript's waitForSignal: what was received in an object, or null.
func waitFor(ctx context.Context, signal string, options ...step.SignalOption) (any, error) {
	data, received, err := step.WaitForSignal[any](ctx, signal, options...)
	if err != nil || !received {
		return nil, err
	}
	return object{"data": data}, nil
}

// durationOf reads a duration as TypeScript does (R31).
func durationOf(text string) (time.Duration, error) {
	ms, err := openworkflow.ParseDuration(text)
	return time.Duration(ms * float64(time.Millisecond)), err
}

// all awaits futures.
func all(futures ...*step.Future[any]) (any, error) {
	results := make([]any, len(futures))
	for i, f := range futures {
		var err error
		if results[i], err = f.Await(); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// TypeError and CustomError are errors that have the names of TypeScript's.
type (
	TypeError   struct{ message string }
	CustomError struct{ message string }
)

func (e *TypeError) Error() string   { return e.message }
func (e *CustomError) Error() string { return e.message }

// caused is an error with a cause that its text does not mention.
type caused struct{ error }

func (caused) Error() string   { return "outer" }
func (c caused) Unwrap() error { return c.error }

// thrown fails in the requested way.
func thrown(kind string) (any, error) {
	switch kind {
	case "error":
		return nil, errors.New("plain")
	case "type-error":
		return nil, &TypeError{"typed"}
	case "custom":
		return nil, &CustomError{"custom with extra props"}
	case "cause":
		type Error struct{ caused }
		return nil, Error{caused{errors.New("inner")}}
	case "string":
		return nil, errors.New("just a string")
	case "object":
		return nil, errors.New("[object Object]")
	case "undefined":
		return nil, errors.New("undefined")
	case "number":
		return nil, errors.New("7")
	case "stackless":
		return nil, errors.New("no stack")
	case "empty-message":
		return nil, errors.New("")
	case "unserializable":
		return func() {}, nil
	case "nul-char":
		return "a\x00b", nil
	default:
		return nil, fmt.Errorf("what is %q?", kind)
	}
}

// refused is a payload that does not decode; wrapped one that looks different inside.
type refused struct{}

func (*refused) UnmarshalJSON([]byte) error { return errors.New("nope") }

type wrapped struct {
	Wrapped any `json:"wrapped"`
}

func (w *wrapped) UnmarshalJSON(raw []byte) error { return json.Unmarshal(raw, &w.Wrapped) }
