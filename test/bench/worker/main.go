//go:build bench

// The worker of the benchmarks: an ordinary worker that the environment configures.
// With BENCH_CPU_PROFILE it writes a CPU profile to that file, with its process id appended
// to the name. With BENCH_KUBECONFIG it reports to that cluster, on the objects of the
// namespace BENCH_OBJECTS.
package main

import (
	"log/slog"
	"os"
	"runtime/pprof"
	"strconv"

	"github.com/openworkflow-operator/operator/test/bench/workflows"
	"github.com/openworkflow-operator/operator/worker"
)

func main() {
	stop := func() {}
	if name := os.Getenv("BENCH_CPU_PROFILE"); name != "" {
		file, err := os.Create(name + "." + strconv.Itoa(os.Getpid()))
		if err == nil {
			err = pprof.StartCPUProfile(file)
		}
		if err != nil {
			slog.Error("Could not profile", "error", err)
			os.Exit(1)
		}
		stop = func() {
			pprof.StopCPUProfile()
			_ = file.Close()
		}
	}
	defer stop()
	kubeconfig := os.Getenv("BENCH_KUBECONFIG")
	if kubeconfig == "" {
		worker.Main(workflows.All()...)
		return
	}
	if err := runOutside(kubeconfig, os.Getenv("BENCH_OBJECTS")); err != nil {
		slog.Error("Worker cannot work", "error", err)
	}
}
