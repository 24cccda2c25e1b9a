package worker

import (
	"os"
	"runtime"
)

// collectLess lets the garbage collector wait for more garbage. What a worker keeps in
// memory is small beside what each step leaves behind, so the collector, which begins
// when the heap has doubled, would take a quarter of the worker's processor time. An
// allocation that is never touched takes no memory, and counts as heap: garbage of so
// many bytes is the price. Whoever sets GOGC or GOMEMLIMIT has decided otherwise.
func collectLess() (stop func()) {
	const bytes = 32 << 20
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	untouched := make([]byte, bytes)
	return func() { runtime.KeepAlive(untouched) }
}
