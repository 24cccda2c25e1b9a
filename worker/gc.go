package worker

import (
	"os"
	"runtime"
)

// delayGC makes the garbage collector run less often. The live heap of a worker is small
// beside the garbage of each step, so a collector that runs when the heap has doubled would
// take a quarter of the worker's CPU time. An allocation of 32 MiB that is never touched
// counts as heap but takes no memory; the price is that much more garbage. An environment
// that sets GOGC or GOMEMLIMIT turns this off.
func delayGC() (stop func()) {
	const bytes = 32 << 20
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	untouched := make([]byte, bytes)
	return func() { runtime.KeepAlive(untouched) }
}
