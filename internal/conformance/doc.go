// Package conformance is cases that Postgres and memory have to answer alike: of the
// store that an execution engine writes to, and of workflows that are executed on it.
// A workflow that is tested in memory (package workflowtest) then does on Postgres what
// it did in the test.
//
// It has no code but tests.
package conformance
