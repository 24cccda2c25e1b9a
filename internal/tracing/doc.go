// Package tracing gives runs OpenTelemetry spans with the names and attributes of
// OpenWorkflow's (R160, R161), so that a trace covers clients and workers of both kinds:
//
//	workflow_run.create    PRODUCER   a client or a parent starts a run
//	workflow_run.execute   CONSUMER   one pass of a worker; the root of its own trace, linked to the creation
//	step_attempt.execute   INTERNAL   one call of a step's function, or the start of a wait
//	signal.send            PRODUCER   a client or a workflow sends a signal
//	workflow_run.cancel    INTERNAL   a client cancels a run
//
// A run is created once and executed by any number of passes, perhaps days apart and on
// different workers. So a pass starts a new trace with a link to the creation, and is not its
// child: a trace that does not end shows nothing. The creator's trace context is stored in the
// run's row (Carrier). Baggage is restored in the pass, and so in its steps and child runs.
//
// # Cost
//
// Tracing is off unless the application or the environment turns it on (Global, package otlp).
// It is then a nil *Tracer. Every method accepts that, does nothing and allocates nothing, so
// callers need not check.
//
// The package knows what is traced, not when: packages client and runner call it.
//
// # Files
//
//	tracing.go   Tracer, its spans and their attributes
//	global.go    the tracer of the application, and the propagators of the environment
//	otlp/        export to a collector, for programs
package tracing
