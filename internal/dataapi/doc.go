// Package dataapi serves the rows of Postgres as Kubernetes-style resources: every run of a
// namespace's Backends, whoever started it. Nothing of it is in etcd.
//
// # Who is authoritative for what
//
// The API server decides who a caller is (client certificates by its authorities, tokens by
// TokenReview) and what they may do (SubjectAccessReview). The rows are the truth about runs.
// The Backends of the caller's namespace say which databases are read; no request can name
// another.
//
// Reads are read-only transactions that the server ends after 5 s, and read indexes in the
// order of the list: none counts or sorts history. Payloads are read by resources of their own
// (runs/payload, runs/history), so that rights to them can be kept apart.
//
// # What the package may not know
//
// It does not depend on the leader: each replica of the manager serves, with connections of
// its own. It knows no reconciler.
//
// # Files
//
//	server.go        the server, its resources and its certificate
//	authenticate.go  who callers are and what they may do
//	certificates.go  issues and renews the server's certificate
//	databases.go     the open databases, one per Backend
//	limits.go        what requests may use at a time, in all and of a namespace
//	reader.go        pages of runs and steps
//	merge.go         merges the lists of several databases
//	runs.go          runs: get, list, create
//	creates.go       creates that share transactions
//	subresources.go  runs/steps, runs/payload, runs/history, runs/state
//	why.go           runs/why
//	why_explain.go   what a run waits for, as a sentence; pure
//	workflows.go     workflows: what the runs of each workflow do now
//	diagnoses.go     diagnoses: the health of each Backend
//	diagnose.go      the checks of a diagnosis; pure
//	actions.go       runs/signal, runs/cancel, runs/suspend
//	fork.go          runs/fork
//	approvals.go     approvals: get, list
//	slots.go         scheduleslots: get, list
//	bulk_retries.go  bulkretries: get, list, create, update, delete
//	bulk_convert.go  what a bulk retry may be, and how it is stored and printed
//	fields.go        field selectors
//	validate.go      what a run to create may be
//	convert.go       rows in, resources out
//	tables.go        resources as kubectl prints them
//	errors.go        errors of databases in, statuses of the API out
package dataapi
