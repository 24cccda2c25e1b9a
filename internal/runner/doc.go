// Package runner executes workflow runs: it claims them, replays and executes their steps,
// keeps their leases, and ends or hands back every run that it has claimed.
//
// The package knows no SQL and no Kubernetes. Package store is the authority on who holds a
// run: it fences every write with the lease of the pass (P2), so no state here needs to be
// trusted for safety.
//
// # Files
//
// Each file has one idea, and one type that owns its state:
//
//	runner.go          Runner: start, drain, stop
//	claim.go           which runs to claim, how many, and when
//	slots.go           how many runs are executed at once
//	lease.go           heartbeats, and what they find out: lost, canceled, suspended
//	flush.go           group commit: the one way in which passes write to the database
//	pass.go            one execution of one run under one claim: its start, and the write of its end
//	execution.go       the workflow's goroutine, and the outcomes with which it may end
//	future.go          steps that were started (durable.Future), and when a run parks
//	step_function.go   function steps
//	step_wait.go       what waiting steps have in common; sleeps and waits for signals
//	step_child.go      child runs
//	step_signal.go     signals that a workflow sends
//	write_buffer.go    attempts that are written together with the next write
//	running_rows.go    the rows of function steps that take long
//	history.go         the step attempts of a run
//	history_cache.go   the histories of runs that this worker has parked
//	wait_poller.go     polls for children and signals while an execution is busy with a function
//	notify_limiter.go  the rate of notifications
//	sweep.go           the periodic rescue of runs where there is no manager
//	report.go          the interface to what reports a run's status
//	memoize.go         a constant that is true: stored steps are not executed again
//	memoize_off.go     the same constant, false, for a test of the tests
//
// # The loops of a Runner
//
// Run starts them in three groups, and stops the groups one after the other:
//
//	from the start of Run until Drain     announce, sweep, Store.Listen, claimLoop
//	from a claim until its end is written one pass per run
//	from the start of Run until its end   flusher.group, leaseKeeper, waitPoller, notifyDue, notifyEnds
//
//	ctx ends or Drain ──> the first group stops: nothing more is claimed
//	                      each pass ends at its next step and hands its run back
//	grace is over     ──> passCtx ends with ErrShutdown: the functions of steps are interrupted
//	1 s later         ──> what is still held is handed back, whether its function has returned or not
//	Run returns       ──> the last group stops, then writeCtx ends
//
// # A pass
//
//	claim ──> startPasses ──> loadHistories (not for a first claim) ──> runPass
//	            execute: calls the workflow's function on a goroutine of its own; for each step
//	              replay           the history has its result, or
//	              checkpoint       may the execution go on?
//	              flushRequired    what must be durable first
//	              runAttempt       calls the function; its result goes into the writeBuffer
//	            outcome: returned, parked, retry later, hand back, suspended, abandoned
//	            finish: writes the run's row and what is buffered, and claims the next runs with it
//	        ──> finishPass: the slot is free
//
// # Two conventions
//
// A function that may end its goroutine with runtime.Goexit has the words "(may not return)"
// after its name in its comment; a test follows the calls. It is how an execution that is over
// leaves an author's code, which cannot mistake it for a result (package durable).
//
// A method with the suffix Locked is called with a mutex held: its receiver's, unless its
// comment names another. The type execution says in which order mutexes are locked.
package runner
