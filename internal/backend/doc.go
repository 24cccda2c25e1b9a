// Package backend keeps the open databases of a process: one Connection per Backend
// object, shared by everything in the process that reads or writes runs.
//
//	registry.go      Registry: which connection a Backend has, and whether it is usable
//	connection.go    Connection: an open database, its hints, and how many creates, reads and
//	                 cancels share a call (maxBatch, FullAt, insertPacing)
//	bounded.go       deadlines of the calls of a database
//	slowness.go      a circuit breaker for a database whose statements do not end
//	coalescer.go     how concurrent calls become one
//	creator.go       Creator: the creates of callers that have no Connection
//	dial.go          DialRule: to which addresses a database may be connected
//	panic.go         contains panics in work for one database
//	store.go         Store: the interface to a database
//
// The states of an entry of the Registry. The check of a Backend calls Publish, its deletion
// calls Remove:
//
//	             Publish(ready)
//	unknown ──────────────────────> ready ──────────┐
//	   │                            │  ^            │
//	   │ Publish(not ready)         v  │            │ Remove
//	   └────────────────────────> failing ──────────┤
//	                                                v
//	                 Publish again            lingering ── after Linger ──> closed
//	         ready | failing <──────────────────┘
//
// A failing Backend keeps its connection, as the database may come back. A deleted one
// lingers, so that runs that were deleted with it can still be canceled. Publish closes
// a connection that it replaces; when Start returns, all are closed.
//
// The package knows no reconcilers and needs no controller-runtime manager: a replica that
// stands by, an API server or a scheduler can hold a Registry as well. It decides nothing
// about Backends; it is told their state.
package backend
