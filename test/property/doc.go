// Package property tests the promise of durable execution on random programs: workflows
// are executed once undisturbed, and then with workers that die before and after each of
// their writes. Every execution must have the same result, and no step may be executed again
// once its completion is stored.
//
// A program is data that one workflow interprets, so that a program that fails can be
// printed, shrunk, and executed again:
//
//	go test ./test/property -programs=10000 -postgres-programs=500 -timeout=2h  # the slow form
//	go test ./test/property -run Memory -seed=…                  # the programs of an earlier test
//	go test ./test/property -run Memory -crashes=-1 -program='{…}'  # one program, a crash at each write
package property
