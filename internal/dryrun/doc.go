// Package dryrun has the words between a worker that makes a dry run and who asks for it: the
// question is in an environment variable, and the answer is the message with which the worker's
// container ends. Both are linked into kubectl-workflow, so the package imports nothing of this
// module; package execute below it makes dry runs.
//
//	result.go   Request, Report and Result
package dryrun
