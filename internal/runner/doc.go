// Package runner executes workflow runs: it claims them, replays and executes their steps,
// keeps their leases, and ends or hands back every run that it has claimed.
//
// The package knows no SQL and no Kubernetes. Package store is the authority on which pass
// holds a run: it refuses a write of a pass that no longer holds its run (P2). So wrong state
// in this package cannot do harm.
//
// # Files
//
// Each file has one idea, and one type that owns its state:
//
//	runner.go          Runner: start, drain, stop
//	claim.go           which runs to claim, how many, and when
//	slots.go           how many runs are executed at once
//	quarantine.go      runs whose workers die
//	stuck.go           functions that do not return: their slots are lent, within a bound
//	lease.go           heartbeats, and what they find out: lost, canceled, suspended
//	flush.go           group commit: the one way in which passes write to the database
//	pass.go            the start and the final write of a pass: one execution under one claim
//	execution.go       the workflow's goroutine, and the outcomes with which it may end
//	future.go          steps that run beside the workflow's goroutine; when a run parks
//	step_function.go   function steps
//	step_wait.go       what waiting steps have in common; sleeps and waits for signals
//	step_approval.go   waits for the decision of approvers, and their expiry
//	step_child.go      child runs
//	step_signal.go     signals that a workflow sends
//	write_buffer.go    attempts that are written together with the next write
//	running_rows.go    the rows of function steps that take long
//	history.go         the step attempts of a run
//	history_cache.go   the histories of runs that this worker has parked
//	wait_poller.go     polls for children and signals while an execution is busy with a function
//	notify_limiter.go  the rate of notifications
//	retry.go           retries while the database does not answer
//	sweep.go           the periodic rescue of runs where there is no manager
//	report.go          the interface to what reports a run's status
//	memoize.go         a constant that is true: stored steps are not executed again
//	memoize_off.go     the same constant, false: proves that the tests notice repeated steps
//
// # The loops of a Runner
//
// Run starts them in three groups, and stops the groups one after the other:
//
//	until Drain (field started)     announce, sweep, Store.Listen, claimLoop
//	until the run is written        each pass, on goroutines of its own
//	until Run returns (background)  flusher.group, leaseKeeper, waitPoller, notifyDue, notifyEnds, notifyWaits
//
//	ctx ends, or Drain ──> the first group stops: nothing more is claimed. Each pass ends at its
//	                       next step and hands its run back.
//	grace is over      ──> passCtx ends with ErrShutdown, which interrupts the functions of steps
//	1 s later          ──> runs that are still held are handed back
//	Run returns        ──> the last group stops, then writeCtx ends
//
// # A pass
//
//	claim, claimForEnding
//	  └─> startPasses ──> loadHistories, unless this is the first claim of a run that is no fork
//	        └─> runPass
//	              ├─ execute: the workflow's function on a goroutine of its own. For each step,
//	              │    replay         returns the result if the history has one; else
//	              │    checkpoint     ends the goroutine if the execution has to end,
//	              │    flushRequired  makes durable what must be durable first,
//	              │    runAttempt     calls the function, and puts its result into the writeBuffer.
//	              │    The outcome is one of: returned, retry later, parked, hand back, suspended, abandoned.
//	              ├─ finish: writes the run's row and the writeBuffer in one transaction, claims the
//	              │    next runs with it, and reports the run
//	              └─ finishPass: frees the slot, or lends it while a function does not return (stuckPasses)
//
// # Two conventions
//
// The comment of a function that can end its goroutine with runtime.Goexit has the words
// "(might not return)" after the name; a test follows the calls. This is how an execution that
// is over leaves an author's code (package durable).
//
// A method with the suffix Locked is called with the mutex of its receiver held; a future's is
// that of its execution. The type execution says in which order mutexes are locked.
package runner
