// Package exampletest lets runnable examples execute workflows in memory, where no
// *testing.T is at hand.
package exampletest

import (
	"fmt"

	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

// Environment returns an environment for an example; tests call workflowtest.New.
func Environment(workflows ...workflow.Definition) *workflowtest.Env {
	return workflowtest.New(noTest{}, workflows...)
}

// Show executes a run and prints what it returns.
func Show[In, Out any](env *workflowtest.Env, w *workflow.Workflow[In, Out], in In) {
	out, err := workflowtest.Start(env, w, in).Result()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(out)
}

// noTest stands in for a test: its faults are the example's output.
type noTest struct{}

func (noTest) Helper()                           {}
func (noTest) Cleanup(func())                    {}
func (noTest) Logf(string, ...any)               {}
func (noTest) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (noTest) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
