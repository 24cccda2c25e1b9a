// Package store keeps runs and step attempts in Postgres, in OpenWorkflow's own tables. It
// is the only package that speaks SQL.
//
// # Who is authoritative for what
//
// The rows are the truth about execution, and the database's clock is the truth about
// time: leases, deadlines and due times are compared with the server's now(), never with
// this process's clock. The exceptions are OpenWorkflow's: the instants of retries, parks
// and failures come from the caller (R180).
//
// A lease is a run's id and the worker id that its claim wrote into the row. Each claim
// brings a worker id that was never used before, so the worker id is a fencing token:
// every write of a pass names it and is refused once the row carries another (R45, R46). A
// refused write reports ErrLeaseLost and changes nothing.
//
// # What the package may not know
//
// It knows rows, not workflows: it does not replay, decide on retries, or know what a step
// does. Of Kubernetes it knows only the object reference in a run's context.
//
// The store rarely notifies by itself. Callers pass Hints with a write, or call Notify
// after it.
//
// # Statements
//
// Statements are set-based: they take slices as arrays and touch all rows at once. Those
// that lock more than one run lock them in the order of their ids, and runs before step
// attempts, so they never deadlock with each other. They expect the isolation level read
// committed.
//
// ApplyAndClaim, SendSignal, SendSignals and CancelRuns wake the runs that wait for what
// they did, in the same transaction. OpenWorkflow's processes write and wake in separate
// transactions. Sweep rescues the runs whose wake was lost in between.
//
// # Schema
//
// Migrate leaves OpenWorkflow's schema as OpenWorkflow itself would, under its
// bookkeeping. It adds nullable columns, partial indexes and tables of ours under a
// bookkeeping of our own. OpenWorkflow's TypeScript workers, client and dashboard work on
// the result.
//
// # Files
//
//	store.go           Options, Store, connections, batches
//	errors.go          SQLSTATE codes to sentinels
//	schema.go          Migrate, CheckSchema
//	migrations.go      the migrations: OpenWorkflow's, then ours
//	rows.go            the columns of runs and step attempts, and how they are scanned
//	fragments.go       SQL that several statements have in common
//	fragments_config.go  what we keep in a run's config
//
//	create.go          CreateRuns, idempotency keys
//	claim.go           Claim, ClaimRequest, the cursors of claims
//	lease.go           heartbeats, the release of leases, suspension
//	write.go           ApplyAndClaim: its types, one round trip, bisecting
//	write_steps.go     the writes of step attempts
//	write_children.go  the child runs that step attempts start
//	write_runs.go      the ends of leases
//	wake.go            makes runs due whose wait has a result
//	signals.go         the delivery of signals
//	notify.go          NOTIFY and LISTEN
//	sweep.go           fails expired runs, rescues runs whose wake was lost
//
//	runs.go            runs by id, cancellation, deadlines, runs of objects
//	tree.go            cancellation of a run with all runs below it
//	steps.go           the step attempts of runs, and their summaries
//	waits.go           the results of waits
//	outcomes.go        how runs ended
//	list.go            pages of runs and step attempts
//	count.go           runs by status
//	retention.go       the removal of ended runs and of signals
//	workers.go         the live processes and what they serve
package store
