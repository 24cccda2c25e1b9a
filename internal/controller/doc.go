// Package controller is the manager: it makes the custom resources true.
//
// Each reconciler tells the same short story: get the object, observe the world,
// ask a pure function what should happen, carry that out, write status once.
//
//	setup.go         wires everything into a controller-runtime manager
//	backends.go      the open databases, one per Backend, and who hears of their changes
//	backend.go       Backend: connect, migrate, check, report    (backend_plan.go: its words)
//	workerpool.go    WorkerPool: owned objects and status        (specs.go, template.go, workerpool_plan.go)
//	workflowrun.go   WorkflowRun: mirror, cancel, suspend, ttl   (workflowrun_plan.go, noworker.go)
//	batcher.go       calls of the database that reconciles share
//	runstatus.go     the one way in which a run's status is written
//	trust.go         which workers report by themselves
//	syncer.go        the loops beside each open database: deadlines, orphans    (repair.go)
//	leases.go        leases of workers that died
//	shards.go        a manager for the namespaces with a label
//
// Who is authoritative for what: an object's spec for intent, Postgres for
// execution. Status is a projection, and the only thing ever decided from it is
// whether a run was started before (status.runID), which keeps a run whose row
// was removed from starting twice.
//
// Nothing here needs to be called exactly once, in order, or at all: every write
// is idempotent and every event has a sweep behind it.
package controller
