package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/workflow"
)

// BenchmarkResult measures the time from a start to its result for a number of concurrent
// callers. Postgres, a worker and the client share the machine.
func BenchmarkResult(b *testing.B) {
	for _, callers := range []int{1, 100, 2000} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			f := setup(b)
			f.work(workflow.Define("echo", func(_ context.Context, in int) (int, error) { return in, nil }))
			echo := workflow.Declare[int, int]("echo")
			turns := make(chan int)
			var wg sync.WaitGroup
			for range callers {
				wg.Go(func() {
					for i := range turns {
						run, err := client.Start(b.Context(), f.Client, echo, i)
						if err == nil {
							_, err = run.Result(b.Context())
						}
						if err != nil {
							b.Error(err)
						}
					}
				})
			}
			for i := 0; b.Loop(); i++ {
				turns <- i
			}
			close(turns)
			wg.Wait()
		})
	}
}
