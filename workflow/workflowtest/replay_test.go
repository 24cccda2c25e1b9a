package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// testdata/order-1001.json is a run of order that has completed, as kubectl workflow export writes it.
func ExampleReplay() {
	replayed := workflowtest.Replay(t, "testdata/order-1001.json", order)
	fmt.Println(replayed.Kept, string(replayed.Output), replayed.Err)
	// Output: [charge-card cool-off approval:1001] "charged for 1001, approved by ann" <nil>
}

// complaints is a TB that keeps what it is told.
type complaints struct {
	workflowtest.TB
	texts []string
}

func (*complaints) Helper() {}
func (c *complaints) Errorf(format string, args ...any) {
	c.texts = append(c.texts, fmt.Sprintf(format, args...))
}
func (c *complaints) Fatalf(format string, args ...any) { c.Errorf(format, args...) }

// orderLike defines another version of the code of order, under its name.
func orderLike(code func(ctx context.Context, id string) (string, error)) workflow.Definition {
	return workflow.Define("order", code)
}

func charge(ctx context.Context, id string) (string, error) {
	return step.Run(ctx, "charge-card", func(context.Context) (string, error) {
		panic("a replay calls no function of a step for " + id)
	})
}

func TestReplay_P1_SaysHowTheCodeDepartsFromTheHistory(t *testing.T) {
	t.Parallel()
	wait := func(ctx context.Context, id string) (string, error) {
		by, _, err := step.WaitForSignal[string](ctx, "approval:"+id, step.Timeout(time.Hour))
		return by, err
	}
	for name, test := range map[string]struct {
		code workflow.Definition
		want []string
	}{
		"another order": {orderLike(func(ctx context.Context, id string) (string, error) {
			if _, err := step.Run(ctx, "reserve", returns("x")); err != nil {
				return "", err
			}
			return charge(ctx, id)
		}), []string{
			`does not ask for the stored result of step "charge-card"`, `does not ask for the stored result of step "cool-off"`,
			`does not ask for the stored result of step "approval:1001"`,
			`it starts step "reserve" (function), which the completed run did not have`,
		}},
		"another kind": {orderLike(func(ctx context.Context, id string) (string, error) {
			charged, err := charge(ctx, id)
			if err == nil {
				_, err = step.Run(ctx, "cool-off", returns[any](nil))
			}
			if err != nil {
				return "", err
			}
			by, err := wait(ctx, id)
			return charged + ", approved by " + by, err
		}), []string{`step "cool-off" is a function, and was a sleep`}},
		"another output": {orderLike(func(ctx context.Context, id string) (string, error) {
			_, err := charge(ctx, id)
			if err == nil {
				err = step.Sleep(ctx, "cool-off", time.Minute)
			}
			if err != nil {
				return "", err
			}
			return wait(ctx, id)
		}), []string{`it returns "ann", and the run has returned "charged for 1001, approved by ann"`}},
		"a failure": {orderLike(func(context.Context, string) (string, error) { return "", errors.New("no more orders") }), []string{
			`it fails, and the run has completed: no more orders`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &complaints{}
			workflowtest.Replay(c, "testdata/order-1001.json", test.code)
			all := strings.Join(c.texts, "\n")
			for _, want := range append(test.want, `workflow "order" does not follow the history of run 1001`) {
				if !strings.Contains(all, want) {
					t.Errorf("no %q in %q", want, all)
				}
			}
		})
	}
}

// exportedFile writes the history of order-1001 with replacements.
func exportedFile(t *testing.T, oldNew ...string) string {
	t.Helper()
	content, err := os.ReadFile("testdata/order-1001.json")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "run.json")
	if err := os.WriteFile(file, []byte(strings.NewReplacer(oldNew...).Replace(string(content))), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Of a run that has failed or is open, the replay goes as far as its history.
func TestReplay_OfRunsThatHaveNotCompleted(t *testing.T) {
	t.Parallel()
	file := exportedFile(t, `"state": "Completed"`, `"state": "Canceled"`, `"state": "completed", "last": true`, `"state": "running"`)
	replayed := workflowtest.Replay(t, file, order)
	if !slices.Equal(replayed.Kept, []string{"charge-card", "cool-off"}) || !slices.Equal(replayed.Next, []string{"approval:1001"}) {
		t.Errorf("replayed %+v", replayed)
	}
	file = exportedFile(t, `"state": "Completed"`, `"state": "Failed"`,
		`"state": "completed", "last": true`, `"state": "failed", "error": {"name": "Error", "message": "no", "nonRetryable": true}`)
	if replayed = workflowtest.Replay(t, file, order); replayed.Err == nil || len(replayed.Next) > 0 {
		t.Errorf("replayed %+v", replayed)
	}
}

func TestReplay_P7_BadFilesSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	for want, file := range map[string]string{
		"no such file":                   "testdata/none.json",
		"it is no JSON of a run":         "replay_test.go",
		`kind "Run", not a RunHistory`:   exportedFile(t, `"RunHistory"`, `"Run"`),
		"one page of a history":          exportedFile(t, `"kind"`, `"continue": "x", "kind"`),
		"which is none of those given":   exportedFile(t, `"workflowName": "order"`, `"workflowName": "refund"`),
		`workflow "order", version "v2"`: exportedFile(t, `"workflowName"`, `"version": "v2", "workflowName"`),
	} {
		c := &complaints{}
		workflowtest.Replay(c, file, order)
		if len(c.texts) != 1 || !strings.Contains(c.texts[0], want) {
			t.Errorf("%s: %q, want %q", file, c.texts, want)
		}
	}
}
