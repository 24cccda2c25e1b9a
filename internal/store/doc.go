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
// # Locks
//
// OpenWorkflow's statements have no such order, and a deadlock whose victim is one of them
// fails a run. Two rules keep ours from being the other half of a cycle:
//
//   - A transaction that holds a lock does not wait for a row that OpenWorkflow's may hold. It
//     skips the row (SKIP LOCKED), or is rolled back at once (NOWAIT) and repeated. A
//     transaction that takes one lock may wait for it: it holds nothing.
//   - Where a wait cannot be excluded, lock_timeout (200 ms) ends it, long before Postgres
//     looks for a deadlock (deadlock_timeout, 1 s). Whoever waits for us is then never the
//     victim. ApplyAndClaim is rolled back, and applies those of its writes that need no
//     locked row.
//
// R is a run, A a step attempt, S a delivery.
//
//	OpenWorkflow's statement      its locks, in order                    why ours make no cycle with it
//	sendSignal                    A of all waiters, unordered; S;        ours end waits for signals with NOWAIT, send with NOWAIT on R
//	                              then R without a worker, unordered     and SKIP LOCKED on A, wake with SKIP LOCKED
//	createStepAttempt             R, new A                               the R is held by its worker; ours write only R that they hold
//	completeStepAttempt, fail…    R, then A of R                         as above
//	setStepAttemptChild…          R, then A of R, key share of child R   as above; ours take FOR UPDATE only in retention, by SKIP LOCKED
//	claimWorkflowRun              one R by SKIP LOCKED, then expired R,  ours claim by SKIP LOCKED, fail expired runs with NOWAIT;
//	                              unordered                              parents of ended children are bounded by lock_timeout
//	cancel, complete, fail, park  one R                                  it waits while it holds nothing
//	wakeParent, reconcile         one R, in a transaction of its own     it waits while it holds nothing
//	extendLease                   one R                                  it waits while it holds nothing
//	createWorkflowRun             advisory lock of the key               ours take it before they lock anything (CreateRuns), or bounded
//	                                                                     by lock_timeout (children)
//
// Ours take:
//
//	ApplyAndClaim                     R written and parents, by id; keys of children; A that wait for signals, NOWAIT; other A;
//	                                  claimed R, SKIP LOCKED; after the commit, parked R, SKIP LOCKED
//	Claim, Heartbeat, ReleaseLeases   R, SKIP LOCKED; a heartbeat for a single lease waits
//	SendSignal, SendSignals           R of waiters and the sender, NOWAIT, after three tries up to 50 ms for each, by id;
//	                                  A of waiters, SKIP LOCKED; S
//	KeepSignal, DeliverKept           the signal's key, bounded by lock_timeout; then as SendSignals
//	Decide, ExpireApproval            R, 50 ms; its A, NOWAIT; S; then the approval
//	CancelRuns, FailExpired           R and parents, likewise; FailExpired always NOWAIT
//	SuspendRuns, ResumeRuns           R, NOWAIT
//	CountTakeover                     R, SKIP LOCKED
//	CreateRuns                        keys, in the order of their numbers
//	Fork                              R of the source, which has ended, NOWAIT; the new run's key, bounded by lock_timeout; new R;
//	                                  key share on R of children, SKIP LOCKED; new A
//	RemoveRuns                        R that have ended, SKIP LOCKED; S and A of those, bounded by lock_timeout; their entries in the
//	                                  index of archived runs, which Fork locks with NOWAIT
//	CreateBulkRetry                   the table of requests, against itself only, bounded by lock_timeout
//	RecordSlots                       outcomes of slots, by key, against itself only
//	RemoveSlots                       outcomes of slots, SKIP LOCKED
//	ClaimBulkRetry                    a request, SKIP LOCKED
//
// A transaction that fails with 55P03 (lock not available), 40P01 (deadlock) or 40001
// (serialization) has written nothing. The methods repeat it; ErrLocked says that the lock
// did not end.
//
// # Schema
//
// Migrate leaves OpenWorkflow's schema as OpenWorkflow itself would, under its
// bookkeeping. It adds partial indexes and tables of ours under a bookkeeping of our own. OpenWorkflow's TypeScript workers, client and dashboard work on
// the result.
//
// # Files
//
//	store.go           Options, Store, the URL, batches
//	session.go         what connections are set to, poolers, read-only databases
//	untrusted.go       what a URL may say that somebody else wrote
//	encryption.go      the sslmode and the CA of connections
//	limits.go          what a server may send that somebody else runs
//	errors.go          SQLSTATE codes to sentinels
//	locks.go           what is done when another session holds a lock
//	schema.go          CheckSchema, the ledgers of migrations
//	migrate.go         Migrate
//	owner.go           who owns the tables that Migrate may not change
//	migrations.go      the migrations: OpenWorkflow's, then ours
//	rows.go            the columns of runs and step attempts, and how they are scanned
//	timestamp.go       instants out of range
//	fragments.go       SQL that several statements have in common
//	fragments_config.go  what we keep in a run's config
//	fragments_shown.go   how much of long values is read for a status
//
//	create.go          CreateRuns, idempotency keys
//	key_holder.go      compares a run with the one that holds its key
//	fork.go            Fork: a run that takes over results of one that has ended
//	fork_plan.go       which results a fork takes over
//	import.go          ImportRun: a run of another database with its history
//	lineage.go         forks whose lineage is still to be shown
//	runnable.go        which runs a worker may claim, and what holds the others
//	bulk_retries.go    requests to fork many runs
//	bulk_sources.go    which runs those select, and how far they have come
//	claim.go           Claim, ClaimRequest
//	claim_cursors.go   from where in the indexes claims read
//	lease.go           heartbeats, the release of leases, suspension
//	write.go           ApplyAndClaim: its types, one round trip, bisecting
//	write_steps.go     the writes of step attempts
//	write_children.go  the child runs that step attempts start
//	write_runs.go      the ends of leases
//	run_states.go      what the workflows of runs publish
//	wake.go            makes runs due whose wait has a result
//	signals.go         the delivery of signals
//	kept_signals.go    signals that are kept until a run waits for them
//	approvals.go       what steps ask approvers, and what those decide
//	approval_decide.go what a decision leads to
//	slots.go           what happened to the slots of schedules
//	notify.go          NOTIFY and LISTEN
//	takeovers.go       runs of OpenWorkflow's workers, and the deaths of those
//	sweep.go           fails expired runs, rescues runs whose wake was lost
//
//	runs.go            runs by id, cancellation, deadlines, runs of objects
//	tree.go            cancellation of a run with all runs below it
//	steps.go           the step attempts of runs, and their summaries
//	waits.go           the results of waits
//	outcomes.go        how runs ended
//	list.go            pages of runs and step attempts
//	count.go           runs by status
//	view_runs.go       runs by id, for people and tools
//	view.go            what people and tools read: bounded, read-only, without payloads
//	view_page.go       pages of lists, bounded in memory
//	payloads.go        the values of runs and step attempts, in chunks
//	view_why.go        what says why a run waits
//	view_workflows.go  what the runs of each workflow do
//	view_diagnosis.go  the health of a database
//	view_approvals.go  what approvers are asked
//	retention.go       the removal of ended runs and of signals
//	archive.go         archives of removed runs
//	archive_read.go    reads a run from an archive
//	archive_decode.go  the rows in an archive
//	archive_fork.go    forks an archived run
//	workers.go         the live processes and what they serve
package store
