// Package memstore keeps runs and step attempts in memory, for tests. To the
// execution engine it is what package store is: the same fencing, idempotency, wakes
// and encodings, so that what passes here passes on Postgres. The cases in package
// conformance are run against both and keep them from drifting apart.
//
// It borrows the types and the errors of package store, and none of its SQL.
//
// # Time
//
// The store's clock goes with the machine's, and ahead of it by the time that was
// skipped: Advance jumps to the next instant at which something is due. That is for
// who knows that nothing else will happen before: AwaitIdle returns once no run is
// claimed, due, or being written to.
//
// # What it leaves out
//
// Nothing here is large: limits of index entries and columns are not imitated, and
// neither are listings for people. A claim looks at every open run.
package memstore
