// Package conformance has the cases that Postgres and memory must answer alike: of the store
// that an execution engine writes to, and of workflows that are executed on it. So a workflow
// that was tested in memory (package workflowtest) does the same on Postgres.
//
// It contains only tests.
package conformance
