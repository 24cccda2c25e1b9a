package property

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// slowItem is longer than it takes to store the failure of another item.
const slowItem = 3 * time.Millisecond

// interpreter executes programs.
type interpreter struct {
	unit time.Duration
	// once and retried execute programs, sender sends a signal until a run receives it.
	once, retried *workflow.Workflow[Program, []string]
	sender        *workflow.Workflow[message, int]
}

type message struct {
	Signal string
	Value  int
}

func newInterpreter(unit time.Duration) *interpreter {
	x := &interpreter{unit: unit}
	x.once = workflow.Define("program", x.execute)
	x.retried = workflow.Define("retried", x.execute, workflow.Retry(x.policy(3)))
	x.sender = workflow.Define("sender", x.send)
	return x
}

func (x *interpreter) workflows() []workflow.Definition {
	return []workflow.Definition{x.once, x.retried, x.sender}
}

func (x *interpreter) workflowOf(p Program) *workflow.Workflow[Program, []string] {
	if p.Retries {
		return x.retried
	}
	return x.once
}

func (x *interpreter) policy(attempts int) workflow.RetryPolicy {
	return workflow.RetryPolicy{InitialInterval: x.unit, MaximumInterval: 4 * x.unit, MaximumAttempts: attempts}
}

func (x *interpreter) units(n int) time.Duration { return time.Duration(n) * x.unit }

func (x *interpreter) execute(ctx context.Context, p Program) (trace []string, err error) {
	for _, n := range p.Nodes {
		result, err := x.node(ctx, n)
		trace = append(trace, result...)
		if err != nil {
			if !n.Catch {
				return nil, err
			}
			trace = append(trace, "caught "+err.Error())
		}
	}
	return trace, nil
}

func (x *interpreter) node(ctx context.Context, n Node) (trace []string, err error) {
	switch n.Op {
	case opStep, opSleep, opWait, opChild:
		if n.Op == opStep && n.Value%2 == 0 { // on the workflow's own goroutine
			value, err := step.Run(ctx, n.Name, n.call, step.Retry(x.policy(n.Attempts)))
			return []string{fmt.Sprint("step ", value)}, err
		}
		return x.begin(ctx, n).await()
	case opSend:
		ids, err := step.SendSignal(ctx, "to nobody", n.Value, step.Name(n.Name))
		return []string{fmt.Sprint("sent to ", len(ids))}, err
	case opMap:
		items := make([]int, n.Value)
		for i := range items {
			items[i] = i
		}
		values, err := step.Map(ctx, n.Name, items, n.Limit, func(ctx context.Context, item int) (int, error) {
			each := n
			each.Fatal = n.Fatal && item >= n.Item
			if n.Fatal && !each.Fatal { // it is under way while another item fails, and completes after that
				time.Sleep(slowItem)
			}
			_, err := each.call(ctx)
			return 2 * item, err
		}, step.Retry(x.policy(n.Attempts)))
		return []string{fmt.Sprint("mapped ", values)}, err
	case opParallel:
		begun := make([]future, len(n.Branches))
		for i, branch := range n.Branches {
			begun[i] = x.begin(ctx, branch)
		}
		for i := range begun {
			result, err := begun[(n.First+i)%len(begun)].await()
			trace = append(trace, result...)
			if err != nil {
				return trace, err
			}
		}
		return trace, nil
	case opSelect:
		begun := make([]future, len(n.Branches))
		pending := make([]step.Pending, len(n.Branches))
		for i, branch := range n.Branches {
			begun[i] = x.begin(ctx, branch)
			pending[i] = begun[i].pending
		}
		index, err := step.Select(ctx, n.Name, pending...)
		if err != nil {
			return nil, err
		}
		trace, err := begun[index].await()
		return append([]string{fmt.Sprint("selected ", index)}, trace...), err
	case opRace:
		return x.race(ctx, n)
	case opFail:
		return nil, errors.New("the program fails")
	default:
		return nil, fmt.Errorf("unknown node %q", n.Op)
	}
}

// race awaits the branches in the order in which they have results. Its own result does not depend
// on the order, so that all executions can be compared.
func (x *interpreter) race(ctx context.Context, n Node) (trace []string, err error) {
	begun := make([]future, len(n.Branches))
	left := make([]int, len(n.Branches)) // numbers of branches
	for i, branch := range n.Branches {
		begun[i], left[i] = x.begin(ctx, branch), i
	}
	results, errs := make([][]string, len(begun)), make([]error, len(begun))
	for len(left) > 0 {
		pending := make([]step.Pending, len(left))
		for i, branch := range left {
			pending[i] = begun[branch].pending
		}
		index, err := step.Select(ctx, n.Name, pending...)
		if err != nil {
			return nil, err
		}
		before, err := step.Run(ctx, n.Name, func(context.Context) (int, error) { return index, nil })
		if err != nil {
			return nil, err
		}
		if before != index {
			return nil, fmt.Errorf("the race chose number %d, and %d in an earlier execution", index, before)
		}
		branch := left[index]
		left = slices.Delete(left, index, index+1)
		results[branch], errs[branch] = begun[branch].await()
	}
	return slices.Concat(results...), errors.Join(errs...)
}

// future is a branch that was started.
type future struct {
	pending step.Pending
	await   func() (trace []string, err error)
}

func (x *interpreter) begin(ctx context.Context, n Node) future {
	switch n.Op {
	case opStep:
		f := step.Go(ctx, n.Name, n.call, step.Retry(x.policy(n.Attempts)))
		return future{f, func() ([]string, error) {
			value, err := f.Await()
			return []string{fmt.Sprint("step ", value)}, err
		}}
	case opSleep:
		f := step.GoSleep(ctx, n.Name, x.units(n.Units))
		return future{f, func() ([]string, error) {
			_, err := f.Await()
			return []string{"slept"}, err
		}}
	case opWait:
		options := []step.SignalOption{step.Name(n.Name)}
		if n.Units > 0 {
			options = append(options, step.Timeout(x.units(n.Units)))
		}
		f := step.GoWaitForSignal[int](ctx, n.Signal, options...)
		return future{f, func() ([]string, error) {
			signal, err := f.Await()
			return []string{fmt.Sprint("received ", signal.Data, " ", signal.Received)}, err
		}}
	case opChild:
		options := []step.WorkflowOption{step.Name(n.Name)}
		if n.Units > 0 {
			options = append(options, step.Timeout(x.units(n.Units)))
		}
		f := step.GoWorkflow(ctx, x.workflowOf(*n.Child), *n.Child, options...)
		return future{f, func() ([]string, error) {
			trace, err := f.Await()
			return []string{fmt.Sprint("child ", trace)}, err
		}}
	default:
		panic("not a branch: " + n.Op)
	}
}

// failedKey is that of the number of failures that are stored of a step.
type failedKey struct{}

// call is what steps do. What they do depends on what is stored alone: a failure that
// was lost in a crash comes again.
func (n Node) call(ctx context.Context) (int, error) {
	failed := ctx.Value(failedKey{}).(int)
	switch {
	case n.Fatal:
		return 0, step.NonRetryable(errors.New("fatal"))
	case failed < n.Fails && n.Panics:
		panic("in step")
	case failed < n.Fails:
		return 0, fmt.Errorf("failure %d", failed+1)
	default:
		return n.Value, nil
	}
}

// send sends a signal until a run has received it. The number of tries is random and not
// part of its result.
func (x *interpreter) send(ctx context.Context, m message) (int, error) {
	const longest = 256
	for pause := 1; ; pause = min(2*pause, longest) {
		ids, err := step.SendSignal(ctx, m.Signal, m.Value)
		if err != nil || len(ids) > 0 {
			return len(ids), err
		}
		if err := step.Sleep(ctx, "pause", x.units(pause)); err != nil {
			return 0, err
		}
	}
}
