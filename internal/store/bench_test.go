package store_test

import (
	"fmt"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// BenchmarkApply measures step writes by the size of a batch.
func BenchmarkApply(b *testing.B) {
	for _, size := range []int{1, 10, 100} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			f := setup(b)
			f.create(size)
			var leases []openworkflow.Lease
			for _, run := range f.claim(size) {
				leases = append(leases, leaseOf(run))
			}
			n := 0
			for b.Loop() {
				steps := make([]store.StepWrite, size)
				for i, l := range leases {
					steps[i] = step(l, "a", completed, `{"n":1}`)
				}
				f.must(steps, nil)
				n += size
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "writes/s")
		})
	}
}
