package controller

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// doublesInBatches returns a running batcher that doubles numbers, the sizes of its
// calls, and what lets a call end.
func doublesInBatches(t *testing.T, limit int) (b *batcher[int, int], sizes chan int, proceed chan error) {
	t.Helper()
	sizes, proceed = make(chan int, 100), make(chan error)
	b = newBatcher(limit, pace{}, func(ctx context.Context, inputs []int) ([]int, error) {
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
	task.Go(func() { b.run(ctx) })
	t.Cleanup(func() {
		cancel()
		task.Wait()
	})
	return b, sizes, proceed
}

// gathered waits until so many calls wait for their turn.
func (b *batcher[in, out]) gathered(n int) {
	for {
		b.mu.Lock()
		waiting := len(b.waiting)
		b.mu.Unlock()
		if waiting == n {
			return
		}
		<-time.After(time.Millisecond)
	}
}

func TestBatcher_WhatComesDuringACallSharesTheNext(t *testing.T) {
	t.Parallel()
	b, sizes, proceed := doublesInBatches(t, 3)
	var callers sync.WaitGroup
	call := func(n int) {
		callers.Go(func() {
			if got, err := b.do(t.Context(), n); got != 2*n || err != nil {
				t.Errorf("%d became %d, %v", n, got, err)
			}
		})
	}
	call(0)
	got := []int{<-sizes}
	for n := range 5 {
		call(n + 1)
	}
	b.gathered(5)
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

func TestBatcher_AnErrorIsThatOfAllWhoSharedIt(t *testing.T) {
	t.Parallel()
	b, sizes, proceed := doublesInBatches(t, 10)
	failure := errors.New("no database")
	errs := make(chan error, 3)
	go func() { _, err := b.do(t.Context(), 1); errs <- err }()
	<-sizes
	for range 2 {
		go func() { _, err := b.do(t.Context(), 2); errs <- err }()
	}
	b.gathered(2)
	proceed <- nil
	if err := <-errs; err != nil {
		t.Errorf("the call before has %v", err)
	}
	<-sizes
	proceed <- failure
	for range 2 {
		if err := <-errs; !errors.Is(err, failure) {
			t.Errorf("error is %v, want %v", err, failure)
		}
	}
}

func TestBatcher_WhoStopsWaitingIsLeftOut(t *testing.T) {
	t.Parallel()
	b, sizes, proceed := doublesInBatches(t, 10)
	var first sync.WaitGroup
	first.Go(func() { _, _ = b.do(t.Context(), 1) })
	<-sizes
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { _, err := b.do(ctx, 2); gone <- err }()
	b.gathered(1)
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	proceed <- nil
	first.Wait()
	last := make(chan int)
	go func() { got, _ := b.do(t.Context(), 3); last <- got }()
	if n := <-sizes; n != 1 {
		t.Errorf("a call of %d inputs, want only the one that is waited for", n)
	}
	proceed <- nil
	if got := <-last; got != 6 {
		t.Errorf("3 became %d", got)
	}
}

func TestBatcher_NobodyWaitsForOneThatHasStopped(t *testing.T) {
	t.Parallel()
	b := newBatcher(1, pace{}, func(context.Context, []int) ([]int, error) { return nil, nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.run(ctx)
	if _, err := b.do(t.Context(), 1); !errors.Is(err, errBatcherStopped) {
		t.Errorf("error is %v", err)
	}
}

// One that comes alone waits for nobody; of those that come in a row more and more go
// together, and when many are there they go at once.
func TestBatcher_SpacesCallsOutByTheirInputs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type called struct {
			inputs int
			at     time.Duration
		}
		var calls []called
		began := time.Now()
		p := pace{each: 20 * time.Millisecond, longest: 200 * time.Millisecond, enough: 32}
		b := newBatcher(100, p, func(_ context.Context, inputs []int) ([]int, error) {
			calls = append(calls, called{len(inputs), time.Since(began)})
			return inputs, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		go b.run(ctx)
		var callers sync.WaitGroup
		at := func(when time.Duration, inputs int) {
			for range inputs {
				callers.Add(1)
				time.AfterFunc(when, func() {
					defer callers.Done()
					_, _ = b.do(ctx, 0)
				})
			}
		}
		at(100*time.Millisecond, 1) // alone
		at(101*time.Millisecond, 2) // 20 ms after one
		at(121*time.Millisecond, 15)
		at(165*time.Millisecond, 31) // 200 ms after 15, at most
		at(170*time.Millisecond, 1)  // so 32 wait: they go at once
		at(171*time.Millisecond, 1)
		at(800*time.Millisecond, 1) // alone again
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
