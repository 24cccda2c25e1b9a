package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// returns is a step's function that returns a value.
func returns[T any](value T) func(context.Context) (T, error) {
	return func(context.Context) (T, error) { return value, nil }
}

// names lists steps as "name status".
func names(steps []workflowtest.Step) (list []string) {
	for _, s := range steps {
		list = append(list, s.Name+" "+s.Status)
	}
	return list
}

var add = workflow.Define("add", func(ctx context.Context, in [2]int) (int, error) {
	return step.Run(ctx, "add", returns(in[0]+in[1]))
})

func TestResult_OfASequence(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, add)
	run := workflowtest.Start(env, add, [2]int{1, 2})
	if out, err := run.Result(); out != 3 || err != nil {
		t.Fatalf("Result: %v, %v", out, err)
	}
	steps := run.Steps()
	if len(steps) != 1 || steps[0].String() != "add completed: 3" || steps[0].Kind != "function" || steps[0].Attempt != 1 ||
		steps[0].StartedAt.IsZero() || steps[0].FinishedAt.Before(steps[0].StartedAt) {
		t.Errorf("steps are %+v", steps)
	}
}

func TestResult_SkipsSleeps(t *testing.T) {
	t.Parallel()
	sleeper := workflow.Define("sleeper", func(ctx context.Context, _ struct{}) (string, error) {
		month := step.GoSleep(ctx, "month", 30*24*time.Hour)
		for range 3 {
			if err := step.Sleep(ctx, "day", 24*time.Hour); err != nil {
				return "", err
			}
		}
		_, err := month.Await()
		return "awake", err
	})
	env := workflowtest.New(t, sleeper)
	started, virtual := time.Now(), env.Now()
	run := workflowtest.Start(env, sleeper, struct{}{})
	if out, err := run.Result(); out != "awake" || err != nil {
		t.Fatalf("Result: %v, %v", out, err)
	}
	if passed := env.Now().Sub(virtual); passed < 30*24*time.Hour-time.Second || passed > 31*24*time.Hour {
		t.Errorf("%v passed, want 30 days", passed)
	}
	if took := time.Since(started); took > time.Minute {
		t.Errorf("that took %v", took)
	}
	want := []string{"month completed", "day completed", "day:1 completed", "day:2 completed"}
	if diff := cmp.Diff(want, names(run.Steps())); diff != "" {
		t.Errorf("steps differ (-want +got):\n%s", diff)
	}
}

func TestFailStep_FailsTheFirstAttempts(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, add)
	env.FailStep("add", errors.New("one"), errors.New("two"))
	started := env.Now()
	run := workflowtest.Start(env, add, [2]int{1, 2})
	if out, err := run.Result(); out != 3 || err != nil {
		t.Fatalf("Result: %v, %v", out, err)
	}
	var got []string
	for _, s := range run.Steps() {
		got = append(got, s.String())
	}
	if diff := cmp.Diff([]string{"add failed: one", "add (attempt 2) failed: two", "add (attempt 3) completed: 3"}, got); diff != "" {
		t.Errorf("steps differ (-want +got):\n%s", diff)
	}
	if passed := env.Now().Sub(started); passed < 2800*time.Millisecond {
		t.Errorf("%v passed, want the delays of 1 s and 2 s", passed)
	}
}

func TestFailStep_ForGood(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, add)
	env.FailStep("add", step.NonRetryable(errors.New("never")))
	_, err := workflowtest.Start(env, add, [2]int{1, 2}).Result()
	failure, ok := errors.AsType[*workflowtest.Error](err)
	if !ok || failure.Message != "never" || failure.Workflow != "add" || err.Error() != `workflow "add" failed: never` {
		t.Errorf("Result: %v", err)
	}
}

func TestMockStep_StandsIn(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, add)
	workflowtest.MockStep(env, "add", returns(7))
	if out, err := workflowtest.Start(env, add, [2]int{1, 2}).Result(); out != 7 || err != nil {
		t.Errorf("Result: %v, %v", out, err)
	}
}

var approval = workflow.Define("approval", func(ctx context.Context, timeout time.Duration) (string, error) {
	by, received, err := step.WaitForSignal[string](ctx, "approve", step.Timeout(timeout))
	if err != nil || !received {
		return "nobody", err
	}
	return by, nil
})

func TestSignal_IsSentOnceARunWaits(t *testing.T) {
	t.Parallel()
	late := workflow.Define("late", func(ctx context.Context, _ struct{}) (string, error) {
		if err := step.Sleep(ctx, "first", time.Hour); err != nil {
			return "", err
		}
		one, _, err := step.WaitForSignal[string](ctx, "approve")
		if err != nil {
			return "", err
		}
		two, _, err := step.WaitForSignal[string](ctx, "approve", step.Name("again"))
		return one + two, err
	})
	env := workflowtest.New(t, late)
	env.Signal("approve", "ann")
	env.Signal("approve", "bob")
	started := env.Now()
	if out, err := workflowtest.Start(env, late, struct{}{}).Result(); out != "annbob" || err != nil {
		t.Errorf("Result: %v, %v", out, err)
	}
	if passed := env.Now().Sub(started); passed > 2*time.Hour {
		t.Errorf("%v passed", passed)
	}
}

func TestSignalAfter_IsSentAtItsTime(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]string{time.Hour: "nobody", 3 * time.Hour: "ann"} {
		t.Run(timeout.String(), func(t *testing.T) {
			env := workflowtest.New(t, approval)
			env.SignalAfter(2*time.Hour, "approve", "ann")
			env.SignalAfter(4*time.Hour, "approve", "bob")
			if out, err := workflowtest.Start(env, approval, timeout).Result(); out != want || err != nil {
				t.Errorf("%v, %v, want %s", out, err, want)
			}
		})
	}
}

func TestChild_RunsInTheEnvironment(t *testing.T) {
	t.Parallel()
	parent := workflow.Define("parent", func(ctx context.Context, n int) (int, error) {
		sum := 0
		for i := range n {
			got, err := step.RunWorkflow(ctx, add, [2]int{sum, i})
			if err != nil {
				return 0, err
			}
			sum = got
		}
		return sum, nil
	})
	env := workflowtest.New(t, parent, add)
	if out, err := workflowtest.Start(env, parent, 4).Result(); out != 6 || err != nil {
		t.Errorf("Result: %v, %v", out, err)
	}
	fake := workflow.Define("add", func(context.Context, [2]int) (int, error) { return 1, nil })
	env = workflowtest.New(t, parent, fake)
	if out, err := workflowtest.Start(env, parent, 4).Result(); out != 1 || err != nil {
		t.Errorf("with a fake: %v, %v", out, err)
	}
}

func TestCancel_EndsARunThatExecutes(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	cause := make(chan error, 1)
	stuck := workflow.Define("stuck", func(ctx context.Context, _ struct{}) (int, error) {
		return step.Run(ctx, "stuck", func(ctx context.Context) (int, error) {
			close(started)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return 0, ctx.Err()
		})
	})
	env := workflowtest.New(t, stuck)
	run := workflowtest.Start(env, stuck, struct{}{})
	<-started
	run.Cancel()
	if _, err := run.Result(); !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("Result: %v", err)
	}
	if err := <-cause; !errors.Is(err, workflow.ErrCanceled) {
		t.Errorf("the step's context ended with %v", err)
	}
}

func TestDeadline_FailsARunThatWaits(t *testing.T) {
	t.Parallel()
	env := workflowtest.New(t, approval)
	started := env.Now()
	_, err := workflowtest.Start(env, approval, 100*time.Hour, workflowtest.Deadline(time.Hour)).Result()
	if !errors.Is(err, workflow.ErrDeadlineExceeded) {
		t.Errorf("Result: %v", err)
	}
	if passed := env.Now().Sub(started); passed > 2*time.Hour {
		t.Errorf("%v passed", passed)
	}
}

// purchase counts what its steps do.
func purchase(charged, shipped *atomic.Int32) *workflow.Workflow[struct{}, string] {
	return workflow.Define("purchase", func(ctx context.Context, _ struct{}) (string, error) {
		charge, err := step.Run(ctx, "charge", func(context.Context) (int32, error) { return charged.Add(1), nil })
		if err != nil {
			return "", err
		}
		if err := step.Sleep(ctx, "cool-off", time.Hour); err != nil {
			return "", err
		}
		parcel, err := step.Run(ctx, "ship", func(context.Context) (int32, error) { return shipped.Add(1), nil })
		return fmt.Sprint(charge, parcel), err
	})
}

func TestCrash_BeforeAndAfterAStep(t *testing.T) {
	t.Parallel()
	var charged, shipped atomic.Int32
	w := purchase(&charged, &shipped)
	env := workflowtest.New(t, w)
	env.CrashBefore("charge")
	env.CrashBefore("charge")
	env.CrashAfter("ship")
	out, err := workflowtest.Start(env, w, struct{}{}).Result()
	if out != "3 1" || err != nil || charged.Load() != 3 || shipped.Load() != 1 {
		t.Errorf("Result: %v, %v; charged %d times, shipped %d times; want 3 and 1", out, err, charged.Load(), shipped.Load())
	}
}

func TestCrashEverywhere_PassesASoundWorkflow(t *testing.T) {
	t.Parallel()
	sound := workflow.Define("sound", func(ctx context.Context, n int) (string, error) {
		futures := make([]*step.Future[int], n)
		for i := range futures {
			futures[i] = step.Go(ctx, "square", returns(i*i))
		}
		sum := 0
		for _, f := range futures {
			square, err := f.Await()
			if err != nil {
				return "", err
			}
			sum += square
		}
		child, err := step.RunWorkflow(ctx, add, [2]int{sum, 1})
		if err != nil {
			return "", err
		}
		by, _, err := step.WaitForSignal[string](ctx, "approve")
		return fmt.Sprintf("%d %s", child, by), err
	})
	executions := 0
	workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) {
		executions++
		env.FailStep("square:1", errors.New("first"))
		env.Signal("approve", "ann")
		if out, err := workflowtest.Start(env, sound, 3).Result(); out != "6 ann" || err != nil {
			t.Errorf("Result: %v, %v", out, err)
		}
	}, sound, add)
	if executions < 15 {
		t.Errorf("%d executions, want two for each write", executions)
	}
}

// recorder is a test that records its failures.
type recorder struct {
	*testing.T
	mu       sync.Mutex
	failures []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

// Fatalf ends the goroutine, as a test's does.
func (r *recorder) Fatalf(format string, args ...any) {
	r.Errorf(format, args...)
	r.SkipNow()
}

// failuresOf executes a test of its own, and returns what it found.
func failuresOf(t *testing.T, test func(t workflowtest.TB)) string {
	t.Helper()
	r := &recorder{}
	t.Run("inner", func(t *testing.T) {
		r.T = t
		test(r)
	})
	return strings.Join(r.failures, "\n")
}

func TestCrashEverywhere_FindsWhatIsNotDeterministic(t *testing.T) {
	t.Parallel()
	var executed atomic.Int32
	unsound := workflow.Define("unsound", func(ctx context.Context, _ struct{}) (int32, error) {
		n := executed.Add(1) // belongs into a step
		if _, err := step.Run(ctx, "a", returns(1)); err != nil {
			return 0, err
		}
		return n, nil
	})
	found := failuresOf(t, func(t workflowtest.TB) {
		workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) {
			executed.Store(0)
			_, _ = workflowtest.Start(env, unsound, struct{}{}).Result()
		}, unsound)
	})
	if want := `run of unsound is completed: 2`; !strings.Contains(found, want) {
		t.Errorf("found %s\nwant %s", found, want)
	}
}

func TestResult_OfAChildThatNobodyServes(t *testing.T) {
	t.Parallel()
	parent := workflow.Define("parent", func(ctx context.Context, in [2]int) (int, error) { return step.RunWorkflow(ctx, add, in) })
	found := failuresOf(t, func(t workflowtest.TB) {
		env := workflowtest.New(t, parent)
		_, _ = workflowtest.Start(env, parent, [2]int{}).Result()
	})
	if !strings.Contains(found, `workflow "add" was started, but the environment does not serve it`) {
		t.Errorf("found %s", found)
	}
}

func TestNew_RefusesTwoOfAName(t *testing.T) {
	t.Parallel()
	found := failuresOf(t, func(t workflowtest.TB) { workflowtest.New(t, add, add) })
	if !strings.Contains(found, `workflow "add" is already registered`) {
		t.Errorf("found %s", found)
	}
}

// A time.Duration holds 292 years. The clock skips more than that.
func TestResult_P3_SkipsCenturies(t *testing.T) {
	t.Parallel()
	far := time.Date(9998, 7, 1, 0, 0, 0, 0, time.UTC)
	sleeper := workflow.Define("centuries", func(ctx context.Context, _ int) (string, error) {
		if err := step.SleepUntil(ctx, "2320", time.Date(2320, 1, 1, 0, 0, 0, 0, time.UTC)); err != nil {
			return "", err
		}
		if err := step.SleepUntil(ctx, "9998", far); err != nil {
			return "", err
		}
		_, received, err := step.WaitForSignal[int](ctx, "never", step.Timeout(time.Hour))
		return fmt.Sprint(received), err
	})
	env := workflowtest.New(t, sleeper)
	got, err := workflowtest.Start(env, sleeper, 0).Result()
	if err != nil || got != "false" {
		t.Errorf("Result is %q, %v, want false", got, err)
	}
	if now := env.Now(); now.Before(far.Add(time.Hour)) {
		t.Errorf("the clock is at %v, want it after the timeout", now)
	}
}

// An instant beyond the year 9999 cannot be written as RFC 3339, and one made of math.MaxInt64
// overflows: it must not be over at once.
func TestResult_P7_AWaitBeyondTheCalendarIsAnError(t *testing.T) {
	t.Parallel()
	child := workflow.Define("child", func(context.Context, int) (int, error) { return 0, nil })
	for name, at := range map[string]time.Time{
		"292277026596-12-04T15:30:07Z": time.Unix(math.MaxInt64, 0),
		"10000-01-01T00:00:00Z":        time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		for verb, wait := range map[string]func(ctx context.Context) error{
			"SleepUntil": func(ctx context.Context) error { return step.SleepUntil(ctx, "far", at) },
			"WaitForSignal": func(ctx context.Context) error {
				_, _, err := step.WaitForSignal[int](ctx, "far", step.TimeoutAt(at))
				return err
			},
			"RunWorkflow": func(ctx context.Context) error {
				_, err := step.RunWorkflow(ctx, child, 1, step.TimeoutAt(at))
				return err
			},
		} {
			t.Run(verb+" "+name, func(t *testing.T) {
				t.Parallel()
				w := workflow.Define("far", func(ctx context.Context, _ int) (int, error) { return 0, wait(ctx) })
				env := workflowtest.New(t, w, child)
				if _, err := workflowtest.Start(env, w, 0).Result(); err == nil || !strings.Contains(err.Error(), "cannot wait until "+name) {
					t.Errorf("the error is %v, want one that names %s", err, name)
				}
			})
		}
	}
}
