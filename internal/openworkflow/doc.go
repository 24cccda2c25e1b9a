// Package openworkflow is OpenWorkflow's data model: the rows, the statuses, the encodings,
// and the arithmetic that two implementations must agree on to share a database. It is
// pure: it has no I/O, no clock and no Kubernetes, and it imports nothing else of this
// module.
//
// The rules it follows (R1 to R180) are listed in docs/openworkflow-rules.md.
//
//	rows.go         runs, step attempts, definitions, leases
//	wait.go         the context of step attempts that wait
//	approval.go     what an approver decides about, and its digest
//	errors.go       the error columns
//	json.go         JSON columns, and JSON as JavaScript writes it
//	duration.go     durations and dates
//	id.go           ids
//	idempotency.go  idempotency keys and their locks
//	cursor.go       the cursors of lists
//	deaths.go       runs whose workers die
//	names.go        the durable names of steps
//	retry.go        retry policies
//	text.go         bounds texts and lists that people read
package openworkflow
