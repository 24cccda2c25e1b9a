// Package controller has the reconcilers and sweeps of the manager.
//
// Each reconciler does the same: get the object, observe the world, plan with a pure
// function what should happen, carry that out, write status once.
//
//	setup.go                    adds everything to a controller-runtime manager
//	depth.go                    bounds the nesting of what is read from the API server
//	cache.go                    which objects the manager caches, and which of their fields
//	queue.go                    typed work queues: events, priorities, log lines
//	fairqueue.go                a work queue in which no namespace takes all workers
//	shards.go                   a manager for the namespaces that a label selects
//	readiness.go                whether the manager can list its objects and read its lease
//	events.go                   how many events a namespace may have
//	conditions.go               helpers for conditions, their reasons and messages
//
//	backend_controller.go       Backend: connect, migrate, check, write status
//	backend_checks.go           the checks, each in a task of its own
//	backend_status.go           reasons and messages of a Backend, from its check
//
//	workerpool_controller.go    WorkerPool: owned objects and status
//	workerpool_status.go        a pool's status, from its Deployment, pods and workers
//
//	workflowrun_controller.go   WorkflowRun: mirror, cancel, suspend, resume, ttl
//	workflowrun_events.go       which events and timeouts reconcile a run
//	workflowrun_plan.go         what should happen to a run; pure
//	workflowrun_row.go          which row an object shows, and whether its status came from it; pure
//	workflowrun_fork.go         runs that take over results of another, and wait for it
//	workflowrun_input.go        large inputs, which the cache leaves out
//	workflowrun_status.go       writes the status of a run
//	refusals.go                 statuses that the API server has refused
//	workflowrun_ttl.go          the ttls of ended objects, which Backends may set, and what keeps objects longer
//	workflowrun_reports.go      how long the manager waits for the workers' reports
//
//	workflowschedule_controller.go  WorkflowSchedule: starts its runs, writes its status, keeps its history
//	workflowschedule_plan.go        what its status becomes; pure
//	workflowschedule_database.go    the runs of schedules that are in the database alone
//	workflowschedule_outcomes.go    which outcomes of its slots are to be stored
//	workflowschedule_backfill.go    starts the slots of past intervals, beside those that are due
//
//	workflowsignal_controller.go  WorkflowSignal: sends it once, writes what became of it
//	workflowsignal_plan.go        what its status becomes; pure
//	workflowsignal_decide.go      decisions of approvals
//	workflowsignal_kept.go        the signals that wait for a run
//
//	lease_controller.go         leases of workers that died
//	lease_suspects.go           which runs may have killed them
//
//	sweep.go                    the loop of each sweep over an open database
//	sweep_deadlines.go          fails runs past their deadline
//	sweep_rescue.go             makes due what a lost wake-up left waiting
//	sweep_takeovers.go          counts the deaths of OpenWorkflow's own workers
//	sweep_repair.go             writes statuses that differ from their rows
//	sweep_ends.go               compares ended objects with their rows once
//	sweep_lineage.go            shows which run supersedes an ended one
//	sweep_orphans.go            cancels runs of deleted objects, clears leases of dead workers
//	sweep_retention.go          removes runs that ended long ago
//	sweep_signals.go            delivers signals that are kept to runs that begin to wait
//	sweep_outcomes.go           stores the outcomes of slots
//	sweep_bulk_retries.go       retries the runs that a request selects
//
// The spec of an object is authoritative for intent, and Postgres for execution. Status is
// a projection of the rows. One thing is decided from it: whether a run was started before
// (status.runID) or has ended, so that a run whose row was removed is not started again.
//
// Every write is idempotent, and a sweep finds what a lost event would have announced. So events may
// be lost, repeated or out of order.
package controller
