package backoff

import (
	"context"
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

func TestDelayDoublesUpToMax(t *testing.T) {
	tests := []struct {
		name   string
		policy Policy
		n      int
		want   time.Duration // before jitter
	}{
		{"first", Policy{time.Second, time.Minute}, 1, time.Second},
		{"second", Policy{time.Second, time.Minute}, 2, 2 * time.Second},
		{"sixth", Policy{time.Second, time.Minute}, 6, 32 * time.Second},
		{"capped", Policy{time.Second, time.Minute}, 7, time.Minute},
		{"far beyond the cap", Policy{time.Second, time.Minute}, math.MaxInt, time.Minute},
		{"no overflow", Policy{time.Second, math.MaxInt64}, 200, math.MaxInt64},
		{"zero counts as one", Policy{time.Second, time.Minute}, 0, time.Second},
		{"first above max", Policy{time.Hour, time.Minute}, 1, time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for range 100 {
				got := test.policy.Delay(test.n)
				if got > test.want || got < test.want-test.want/4-1 {
					t.Fatalf("Delay(%d) = %v, want %v less a quarter at most", test.n, got, test.want)
				}
			}
		})
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		policy := Policy{First: 100 * time.Millisecond, Max: time.Hour}
		begun := time.Now()
		if err := policy.Wait(ctx, 1); err != nil || time.Since(begun) > 100*time.Millisecond {
			t.Errorf("Wait(1) = %v after %v", err, time.Since(begun))
		}
		if err := policy.Wait(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait beyond the context's end = %v", err)
		}
		if time.Since(begun) != time.Second {
			t.Errorf("waited %v, want until the context's end", time.Since(begun))
		}
	})
}
