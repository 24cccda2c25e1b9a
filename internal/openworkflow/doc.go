// Package openworkflow is OpenWorkflow's data model: the rows, the statuses, the
// encodings, and the arithmetic that two implementations must agree on to share
// a database. It is pure: no I/O, no clock, no Kubernetes, and it imports nothing
// else of this module.
//
// The rules it follows (R1 to R180) are listed in docs/openworkflow-rules.md.
package openworkflow
