package workflowtest

import "fmt"

// TB is the part of a test that this package uses. [*testing.T] implements it.
type TB interface {
	Helper()
	Cleanup(func())
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// ForExample returns a TB for a testable example (a function such as ExampleNew), which has
// no *testing.T. Errorf prints to standard output, where it fails the example, and Fatalf
// panics. Functions given to Cleanup are not called: an environment lasts until the test
// binary exits. Tests pass their *testing.T to [New] instead.
func ForExample() TB { return exampleTB{} }

type exampleTB struct{}

func (exampleTB) Helper()                           {}
func (exampleTB) Cleanup(func())                    {}
func (exampleTB) Logf(string, ...any)               {}
func (exampleTB) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (exampleTB) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
