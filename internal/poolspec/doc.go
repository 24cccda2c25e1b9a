// Package poolspec makes the objects of a WorkerPool: a pool and its pod template in,
// apply configurations out. It is pure; package controller applies what it returns.
//
//	specs.go       the service account, role, disruption budget and Deployment of a pool; the
//	               environment and probes that are added to the worker's container
//	dryrun.go      the Job of a dry run, with the pool's image
//	encryption.go  the sslmode and the CA of the database, for workers of both languages
//	token.go       the token of the service account, for the worker's container alone
//	template.go    decoding and checking of spec.template
//	names.go       names and label values of owned objects
package poolspec
