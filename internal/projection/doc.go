// Package projection turns the rows of a run into the status of its object.
//
// It is pure. The runner that has just written the rows and the manager that reads them
// later get the same status from the same rows, so either may write it. It knows neither
// Postgres nor the API server.
//
//	status.go      Status: rows to status, at most 8 KiB; Revision, which orders statuses
//	values.go      which values a status can hold, and what becomes of others
//	state.go       the state of a run, and why
//	conditions.go  the conditions of a status
//	patch.go       the request bodies that write a status, and how a refusal is recognized
package projection
