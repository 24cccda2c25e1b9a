// Package tracing gives runs OpenTelemetry spans with the names and attributes of
// OpenWorkflow's (R160, R161), so that a trace goes through clients and workers of
// both kinds:
//
//	workflow_run.create    PRODUCER   a client or a parent has started a run
//	workflow_run.execute   CONSUMER   one pass of a worker; a trace of its own, linked to the creation
//	step_attempt.execute   INTERNAL   one call of a step's function, or the beginning of a wait
//	signal.send            PRODUCER   a client or a workflow has sent a signal
//	workflow_run.cancel    INTERNAL   a client has canceled a run
//
// A run is created once and executed by any number of passes, days apart perhaps and
// on different workers. That is why a pass begins a new trace and links to the
// creation, rather than being its child: a trace that never ends shows nothing. What
// the creator's context carries travels in the run's row (Carrier); baggage is there
// again in the pass, and so in the steps and in the runs that they start.
//
// # Cost
//
// Tracing is off unless the application or the environment asks for it (Global, package
// otlp). It is then a nil *Tracer, which every method accepts; they do nothing and
// allocate nothing. So callers do not ask whether it is on.
//
// The package knows what is traced, not when: it is called by those who create,
// execute and cancel.
package tracing
