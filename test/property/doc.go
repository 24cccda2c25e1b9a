// Package property tests the promise of durable execution on programs that nobody
// has written: random workflows are executed once undisturbed, and then with workers that
// die before and after each of their writes. Every execution must have the same
// result, and no step may be executed again once its completion is stored.
//
// A program is data, executed by one workflow that interprets it, so that one that has
// failed can be printed, made smaller, and executed again:
//
//	go test ./test/property -programs=10000 -postgres-programs=500 -timeout=2h  # the slow form
//	go test ./test/property -run Memory -seed=…                  # the programs of an earlier test
//	go test ./test/property -run Memory -crashes=-1 -program='{…}'  # one program, a crash at each write
package property
