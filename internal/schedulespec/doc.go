// Package schedulespec makes runs of WorkflowSchedules. It is pure: a schedule and a slot in, an object
// out. That of a run without an object says what its row is.
//
//	names.go     the names of the runs, from which their slots are read
//	ids.go       the ids of runs that are only in the database
//	run.go       the run of a slot
//	backfill.go  which slots of a past interval start
//
// The manager and the plugin share it, so that both give the run of one slot one name and one input.
package schedulespec
