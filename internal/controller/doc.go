// Package controller is the manager: it makes the custom resources true.
//
// Each reconciler tells the same short story: get the object, observe the world,
// ask a pure function what should happen, carry that out, write status once.
//
//	setup.go                    adds everything to a controller-runtime manager
//	cache.go                    which objects the manager caches, and which of their fields
//	queue.go                    typed work queues: events, priorities, log lines
//	shards.go                   a manager for the namespaces that a label selects
//	conditions.go               helpers for conditions, their reasons and messages
//
//	backend_controller.go       Backend: connect, migrate, check, write status
//	backend_status.go           the words of a Backend's conditions
//
//	workerpool_controller.go    WorkerPool: owned objects and status
//	workerpool_status.go        a pool's status, from its Deployment, pods and workers
//
//	workflowrun_controller.go   WorkflowRun: mirror, cancel, suspend, resume, ttl
//	workflowrun_events.go       which events and timeouts reconcile a run
//	workflowrun_plan.go         what should happen to a run; pure
//	workflowrun_status.go       the one way in which a run's status is written
//	workflowrun_noworker.go     why no worker executes a run
//	workflowrun_reports.go      how long the manager waits for the workers' reports
//
//	lease_controller.go         leases of workers that died
//
//	sweep.go                    the loop of each sweep over an open database
//	sweep_deadlines.go          fails runs past their deadline
//	sweep_rescue.go             makes due what a lost wake-up left waiting
//	sweep_status.go             writes statuses that differ from their rows
//	sweep_orphans.go            cancels runs of deleted objects, clears leases of dead workers
//	sweep_retention.go          removes runs that ended long ago
//
// Who is authoritative for what: an object's spec for intent, Postgres for
// execution. Status is a projection, and the only thing ever decided from it is
// whether a run was started before (status.runID), which keeps a run whose row
// was removed from starting twice.
//
// Nothing here needs to be called exactly once, in order, or at all: every write
// is idempotent and every event has a sweep behind it.
package controller
