package workflowtest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// release asks two of three people, and tells what came of it.
func release(change func(*step.ApprovalOptions)) *workflow.Workflow[string, string] {
	return workflow.Define("release", func(ctx context.Context, version string) (string, error) {
		if _, err := step.Run(ctx, "build", func(context.Context) (string, error) { return version, nil }); err != nil {
			return "", err
		}
		options := step.ApprovalOptions{
			Prompt: "Release " + version + "?", Details: map[string]string{"version": version},
			Users: []string{"ann", "bob"}, Groups: []string{"ops"}, Required: 2, ExpiresAfter: 24 * time.Hour,
		}
		if change != nil {
			change(&options)
		}
		approval, err := step.WaitForApproval(ctx, "release", options)
		if err != nil {
			return "", err
		}
		var by []string
		for _, d := range approval.Decisions {
			by = append(by, fmt.Sprintf("%s %v %q", d.User, d.Approved, d.Comment))
		}
		return fmt.Sprintf("%s %v: %s", approval.Outcome, approval.Approved, strings.Join(by, ", ")), nil
	})
}

func TestEnv_DecidesApprovals(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*step.ApprovalOptions)
		decide func(env *workflowtest.Env)
		want   string
	}{
		"approved": {nil, func(env *workflowtest.Env) {
			env.Approve("release", workflowtest.Approver{User: "ann", Comment: "go"})
			env.Approve("release", workflowtest.Approver{User: "eve", Groups: []string{"ops"}})
		}, `Approved true: ann true "go", eve true ""`},
		"denied": {nil, func(env *workflowtest.Env) {
			env.Approve("release", workflowtest.Approver{User: "ann"})
			env.Deny("release", workflowtest.Approver{User: "bob", Comment: "not on a Friday"})
		}, `Denied false: ann true "", bob false "not on a Friday"`},
		"expired": {nil, func(env *workflowtest.Env) {
			env.Approve("release", workflowtest.Approver{User: "ann"})
		}, `Expired false: ann true ""`},
		"expired, which approves": {func(o *step.ApprovalOptions) { o.OnExpiry = step.ExpiryApprove },
			func(*workflowtest.Env) {}, `Expired true: `},
		"expired at once": {func(o *step.ApprovalOptions) { o.ExpiresAfter = -time.Hour }, func(*workflowtest.Env) {}, `Expired false: `},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := release(test.change)
			env := workflowtest.New(t, w)
			test.decide(env)
			if got, err := workflowtest.Start(env, w, "v1").Result(); err != nil || got != test.want {
				t.Errorf("result is %q, %v; want %q", got, err, test.want)
			}
		})
	}
}

func TestEnv_AnApprovalSurvivesEveryCrash(t *testing.T) {
	t.Parallel()
	for name, decide := range map[string]func(env *workflowtest.Env){
		"approved": func(env *workflowtest.Env) {
			env.Approve("release", workflowtest.Approver{User: "ann"})
			env.Approve("release", workflowtest.Approver{User: "bob"})
		},
		"expired": func(*workflowtest.Env) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := release(nil)
			workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) {
				decide(env)
				workflowtest.Start(env, w, "v1")
			}, w)
		})
	}
}

func TestEnv_AnApprovalThatFailsOnExpiry(t *testing.T) {
	t.Parallel()
	w := release(func(o *step.ApprovalOptions) { o.OnExpiry = step.ExpiryFail })
	env := workflowtest.New(t, w)
	_, err := workflowtest.Start(env, w, "v1").Result()
	if err == nil || !strings.Contains(err.Error(), `step "release": the approval has expired`) {
		t.Errorf("error is %v", err)
	}
	var caught bool
	catching := workflow.Define("catching", func(ctx context.Context, _ string) (string, error) {
		_, err := step.WaitForApproval(ctx, "ask", step.ApprovalOptions{Prompt: "?", ExpiresAfter: time.Hour, OnExpiry: step.ExpiryFail})
		caught = errors.Is(err, step.ErrApprovalExpired)
		return "", nil
	})
	env = workflowtest.New(t, catching)
	if _, err := workflowtest.Start(env, catching, "").Result(); err != nil || !caught {
		t.Errorf("caught %v, %v", caught, err)
	}
}

func TestWaitForApproval_P7_BadOptionsFailTheRunWithAMessage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		change func(*step.ApprovalOptions)
		want   string
	}{
		{func(o *step.ApprovalOptions) { o.Prompt = "" }, `step "release": the prompt has 0 bytes: give one of 1 to 4096`},
		{func(o *step.ApprovalOptions) { o.Prompt = strings.Repeat("x", 4097) }, `step "release": the prompt has 4097 bytes: give one of 1 to 4096`},
		{func(o *step.ApprovalOptions) { o.Required = -1 }, `-1 approvals cannot be required: give a number from 1 to 100, or 0 for 1`},
		{func(o *step.ApprovalOptions) { o.Groups, o.Required = nil, 3 }, `3 approvals are required of 2 users: it would never be approved`},
		{func(o *step.ApprovalOptions) { o.ExpiresAt = time.Now() }, `ExpiresAfter and ExpiresAt are both set: give at most one`},
		{func(o *step.ApprovalOptions) { o.ExpiresAfter, o.ExpiresAt = 0, time.Unix(1<<40, 0) }, `cannot wait until`},
		{func(o *step.ApprovalOptions) { o.Users = []string{""} }, `a name among the users has 0 bytes: give 1 to 1024`},
		{func(o *step.ApprovalOptions) { o.Groups = make([]string, 101) }, `101 groups are too many approvers: give at most 100`},
		{func(o *step.ApprovalOptions) { o.OnExpiry = "Deny!" }, `OnExpiry "Deny!" is unknown: give Deny, Approve or Fail`},
		{func(o *step.ApprovalOptions) { o.Details = make(chan int) }, `encode the details: json: unsupported type: chan int`},
		{func(o *step.ApprovalOptions) { o.Details = strings.Repeat("x", 70000) }, `bytes with its details and approvers, more than 65536`},
	} {
		w := release(test.change)
		env := workflowtest.New(t, w)
		if _, err := workflowtest.Start(env, w, "v1").Result(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error is %v, want %s", err, test.want)
		}
	}
}

func TestSignals_P7_NamesOfApprovalsAreReserved(t *testing.T) {
	t.Parallel()
	const want = `signal name "openworkflow.dev/approval:r:ask" is reserved for approvals: use another one`
	for name, call := range map[string]func(ctx context.Context) error{
		"wait": func(ctx context.Context) error {
			_, _, err := step.WaitForSignal[string](ctx, "openworkflow.dev/approval:r:ask")
			return err
		},
		"send": func(ctx context.Context) error {
			_, err := step.SendSignal(ctx, "openworkflow.dev/approval:r:ask", nil)
			return err
		},
	} {
		w := workflow.Define("forge", func(ctx context.Context, _ string) (string, error) { return "", call(ctx) })
		env := workflowtest.New(t, w)
		if _, err := workflowtest.Start(env, w, "").Result(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %s", name, err, want)
		}
	}
}
