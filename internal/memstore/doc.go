// Package memstore keeps runs and step attempts in memory, for tests. The execution engine
// sees no difference from package store: fencing, idempotency, wakes and encodings are the
// same, so what passes here passes on Postgres. Package conformance runs its cases against
// both stores and keeps them from drifting apart.
//
// It uses the types and the errors of package store, and none of its SQL.
//
// # Time
//
// The store's clock is the machine's plus the time that was skipped. Advance skips to the
// next instant at which something is due. Call it when nothing else will happen before
// that: AwaitIdle returns once no run is claimed or due.
//
// # What it leaves out
//
// It has no limits on the size of index entries and columns, and no lists for people. A
// claim reads every open run. No run is ever removed or archived, so Fork reads no archive.
//
// # Files
//
//	store.go     Store, transactions, due times
//	apply.go     ApplyAndClaim
//	claim.go     claims, heartbeats, the release of leases, suspension
//	runs.go      creation, cancellation and deadlines of runs
//	fork.go      runs that take over results of others
//	signals.go   signals, the results of waits, Sweep
//	kept.go      signals that are kept until a run waits for them
//	approvals.go what steps ask approvers, and what those decide
//	workers.go   the live processes and what they serve
//	notify.go    notifications
//	time.go      AwaitIdle, Advance
//	jsonb.go     JSON as Postgres's jsonb stores and prints it
package memstore
