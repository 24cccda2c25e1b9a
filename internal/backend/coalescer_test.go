package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// newDoublingCoalescer returns a running coalescer that doubles numbers. Sizes gets the
// number of inputs of each call, which then blocks until it receives from proceed.
func newDoublingCoalescer(t *testing.T, limit int) (c *coalescer[int, int], sizes chan int, proceed chan error) {
	t.Helper()
	sizes, proceed = make(chan int, 100), make(chan error)
	c = newCoalescer(limit, pacing{}, func(ctx context.Context, inputs []int) ([]int, error) {
		sizes <- len(inputs)
		var outputs []int
		for _, n := range inputs {
			outputs = append(outputs, 2*n)
		}
		select {
		case err := <-proceed:
			return outputs, err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var task sync.WaitGroup
	task.Go(func() { c.run(ctx) })
	t.Cleanup(func() {
		cancel()
		task.Wait()
	})
	return c, sizes, proceed
}

// waitForInputs blocks until n inputs wait.
func (c *coalescer[in, out]) waitForInputs(n int) {
	for {
		c.mu.Lock()
		waiting := len(c.waiting)
		c.mu.Unlock()
		if waiting == n {
			return
		}
		<-time.After(time.Millisecond)
	}
}

func TestCoalescer_InputsDuringACallShareTheNext(t *testing.T) {
	t.Parallel()
	c, sizes, proceed := newDoublingCoalescer(t, 3)
	var callers sync.WaitGroup
	call := func(n int) {
		callers.Go(func() {
			if got, err := c.do(t.Context(), n); got != 2*n || err != nil {
				t.Errorf("%d became %d, %v", n, got, err)
			}
		})
	}
	call(0)
	got := []int{<-sizes}
	for n := range 5 {
		call(n + 1)
	}
	c.waitForInputs(5)
	for range 2 {
		proceed <- nil
		got = append(got, <-sizes)
	}
	proceed <- nil
	callers.Wait()
	if want := []int{1, 3, 2}; !slices.Equal(got, want) {
		t.Errorf("calls of %v inputs, want %v", got, want)
	}
}

func TestCoalescer_AnErrorIsReturnedToAllThatSharedTheCall(t *testing.T) {
	t.Parallel()
	c, sizes, proceed := newDoublingCoalescer(t, 10)
	failure := errors.New("no database")
	errs := make(chan error, 3)
	go func() { _, err := c.do(t.Context(), 1); errs <- err }()
	<-sizes
	for range 2 {
		go func() { _, err := c.do(t.Context(), 2); errs <- err }()
	}
	c.waitForInputs(2)
	proceed <- nil
	if err := <-errs; err != nil {
		t.Errorf("the first call has error %v", err)
	}
	<-sizes
	proceed <- failure
	for range 2 {
		if err := <-errs; !errors.Is(err, failure) {
			t.Errorf("error is %v, want %v", err, failure)
		}
	}
}

func TestCoalescer_ACanceledInputIsLeftOut(t *testing.T) {
	t.Parallel()
	c, sizes, proceed := newDoublingCoalescer(t, 10)
	var first sync.WaitGroup
	first.Go(func() { _, _ = c.do(t.Context(), 1) })
	<-sizes
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { _, err := c.do(ctx, 2); gone <- err }()
	c.waitForInputs(1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	proceed <- nil
	first.Wait()
	last := make(chan int)
	go func() { got, _ := c.do(t.Context(), 3); last <- got }()
	if n := <-sizes; n != 1 {
		t.Errorf("a call of %d inputs, want only the one whose caller waits", n)
	}
	proceed <- nil
	if got := <-last; got != 6 {
		t.Errorf("3 became %d", got)
	}
}

func TestCoalescer_DoFailsAfterRunHasReturned(t *testing.T) {
	t.Parallel()
	c := newCoalescer(1, pacing{}, func(context.Context, []int) ([]int, error) { return nil, nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.run(ctx)
	if _, err := c.do(t.Context(), 1); !errors.Is(err, ErrClosed) {
		t.Errorf("error is %v", err)
	}
}

// A single input is sent at once. In a row, more and more inputs share a call, and a full
// batch is sent without a pause.
func TestCoalescer_SpacesCallsByTheirInputs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type called struct {
			inputs int
			at     time.Duration
		}
		var calls []called
		start := time.Now()
		p := pacing{perInput: 20 * time.Millisecond, max: 200 * time.Millisecond, fullAt: 32}
		c := newCoalescer(100, p, func(_ context.Context, inputs []int) ([]int, error) {
			calls = append(calls, called{len(inputs), time.Since(start)})
			return inputs, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		go c.run(ctx)
		var callers sync.WaitGroup
		at := func(when time.Duration, inputs int) {
			for range inputs {
				callers.Add(1)
				time.AfterFunc(when, func() {
					defer callers.Done()
					_, _ = c.do(ctx, 0)
				})
			}
		}
		at(100*time.Millisecond, 1) // at once
		at(101*time.Millisecond, 2) // 20 ms after a call of 1
		at(121*time.Millisecond, 15)
		at(165*time.Millisecond, 31) // at most 200 ms after a call of 15
		at(170*time.Millisecond, 1)  // 32 wait: they are sent at once
		at(171*time.Millisecond, 1)
		at(800*time.Millisecond, 1) // at once again
		callers.Wait()
		cancel()
		want := []called{
			{1, 100 * time.Millisecond}, {2, 120 * time.Millisecond}, {15, 160 * time.Millisecond},
			{32, 170 * time.Millisecond}, {1, 370 * time.Millisecond}, {1, 800 * time.Millisecond},
		}
		if !slices.Equal(calls, want) {
			t.Errorf("calls are %v, want %v", calls, want)
		}
	})
}

func TestCoalescer_P7_ABadValueFailsOnlyItsOwnCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const bad = 13
		c := newCoalescer(100, pacing{}, func(_ context.Context, inputs []int) ([]int, error) {
			if slices.Contains(inputs, bad) {
				return nil, store.ErrInvalidJSON
			}
			return inputs, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var callers, task sync.WaitGroup
		for n := range 40 {
			callers.Go(func() {
				got, err := c.do(t.Context(), n)
				if isBad := n == bad; errors.Is(err, store.ErrInvalidJSON) != isBad || !isBad && got != n {
					t.Errorf("do(%d) = %d, %v", n, got, err)
				}
			})
		}
		synctest.Wait()
		task.Go(func() { c.run(ctx) })
		callers.Wait()
		cancel()
		task.Wait()
	})
}
