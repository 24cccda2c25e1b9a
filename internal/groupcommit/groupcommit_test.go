package groupcommit_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/openworkflow-operator/operator/internal/groupcommit"
)

// database holds each batch in flight until end is called.
type database struct {
	t     *testing.T
	group *groupcommit.Group[int]

	mu       sync.Mutex
	inFlight []*flush
}

type flush struct {
	ctx   context.Context
	items []int
	end   chan struct{}
}

func start(t *testing.T) *database {
	d := &database{t: t}
	d.group = groupcommit.New(func(ctx context.Context, batch []*groupcommit.Write[int]) {
		f := &flush{ctx: ctx, end: make(chan struct{})}
		for _, w := range batch {
			f.items = append(f.items, w.Item)
		}
		d.mu.Lock()
		d.inFlight = append(d.inFlight, f)
		d.mu.Unlock()
		<-f.end
		for _, w := range batch {
			w.Finish(outcome(w.Item))
		}
	})
	go d.group.Run(t.Context())
	return d
}

var errOdd = errors.New("odd")

// outcome is the result of an item: each has its own.
func outcome(item int) error {
	if item%2 == 1 {
		return errOdd
	}
	return nil
}

// join lets items join, one after the other.
func (d *database) join(ctx context.Context, items ...int) {
	for _, item := range items {
		go func() {
			if err := d.group.Join(ctx, item); ctx.Err() == nil && !errors.Is(err, outcome(item)) {
				d.t.Errorf("item %d: %v, want %v", item, err, outcome(item))
			}
		}()
		synctest.Wait()
	}
}

// want fails the test unless these batches are in flight.
func (d *database) want(batches ...[]int) {
	d.t.Helper()
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	var got [][]int
	for _, f := range d.inFlight {
		got = append(got, f.items)
	}
	if !slices.EqualFunc(got, batches, slices.Equal) {
		d.t.Errorf("in flight: %v, want %v", got, batches)
	}
}

// end finishes the oldest batch.
func (d *database) end() {
	d.mu.Lock()
	f := d.inFlight[0]
	d.inFlight = d.inFlight[1:]
	d.mu.Unlock()
	close(f.end)
}

func TestTryAcquire_OnlyWhileNothingIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		if !d.group.TryAcquire() {
			t.Fatal("could not acquire an idle group")
		}
		if d.group.TryAcquire() {
			t.Error("acquired twice")
		}
		d.group.Release()
		d.join(t.Context(), 0)
		d.want([]int{0})
		if d.group.TryAcquire() {
			t.Error("acquired beside a batch")
		}
		d.end()
		d.want()
		if !d.group.TryAcquire() {
			t.Error("could not acquire after the batch")
		}
		d.group.Release()
	})
}

func TestJoin_PendingWritesAreTheNextBatchInTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.join(t.Context(), 0)
		d.join(t.Context(), 1) // half as large as the first, and more
		d.join(t.Context(), 2, 3, 4, 5)
		d.want([]int{0}, []int{1})
		d.end()
		d.want([]int{1}, []int{2, 3, 4, 5})
		d.join(t.Context(), 6)
		d.end()
		d.want([]int{2, 3, 4, 5}) // 6 is less than half
		d.end()
		d.want([]int{6})
		d.end()
		d.want()
	})
}

func TestJoin_ASecondBatchIsHalfAsLargeAsTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.group.TryAcquire()
		d.join(t.Context(), 0)
		d.want([]int{0}) // beside the one that has acquired the group
		d.join(t.Context(), 2, 4, 6, 8)
		d.end()
		d.want([]int{2, 4, 6, 8})
		d.group.Release()
		d.join(t.Context(), 1)
		d.want([]int{2, 4, 6, 8})
		d.join(t.Context(), 3)
		d.want([]int{2, 4, 6, 8}, []int{1, 3})
		d.join(t.Context(), 5, 7, 9)
		d.want([]int{2, 4, 6, 8}, []int{1, 3}) // never a third
		d.end()
		d.end()
		d.want([]int{5, 7, 9})
		d.end()
		d.want()
	})
}

func TestRelease_StartsThePendingBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.group.TryAcquire()
		d.join(t.Context(), 0, 2)
		d.want([]int{0})
		d.join(t.Context(), 4)
		d.end()
		d.want([]int{2, 4})
		d.group.Release()
		d.end()
		d.want()
	})
}

func TestJoin_AWriteWhoseContextHasEndedIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.join(t.Context(), 0)
		d.join(t.Context(), 2)
		ctx, cancel := context.WithCancel(t.Context())
		d.join(ctx, 4)
		d.join(t.Context(), 6)
		cancel()
		d.end()
		d.want([]int{2}, []int{6})
		d.end()
		d.end()
	})
}

func TestJoin_ABatchIsCanceledWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.group.TryAcquire()
		first, cancelFirst := context.WithCancel(t.Context())
		second, cancelSecond := context.WithCancel(t.Context())
		d.join(t.Context(), 0)
		d.join(first, 2)
		d.join(second, 4)
		d.end()
		d.want([]int{2, 4})
		cancelFirst()
		synctest.Wait()
		if d.inFlight[0].ctx.Err() != nil {
			t.Error("the batch was canceled with one of its writes")
		}
		cancelSecond()
		synctest.Wait()
		if d.inFlight[0].ctx.Err() == nil {
			t.Error("the batch continues although no Join waits for it")
		}
		d.end()
		d.group.Release()
	})
}

func TestStop_WritesWhatIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := start(t)
		d.join(t.Context(), 0)
		d.join(t.Context(), 2)
		d.join(t.Context(), 4, 6)
		d.group.Stop()
		if err := d.group.Join(t.Context(), 8); !errors.Is(err, groupcommit.ErrStopped) {
			t.Errorf("joined after Stop: %v", err)
		}
		d.want([]int{0}, []int{2})
		d.end()
		d.want([]int{2}, []int{4, 6})
		d.end()
		d.end()
		d.want()
	})
}

func TestJoin_ReturnsTheCause(t *testing.T) {
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	group := groupcommit.New(func(context.Context, []*groupcommit.Write[int]) {})
	if err := group.Join(ctx, 0); !errors.Is(err, why) {
		t.Errorf("%v, want the cause", err)
	}
}

// TestJoin_Concurrently: each has its own result once, in fewer batches than writes.
func TestJoin_Concurrently(t *testing.T) {
	const writers, each = 64, 200
	var batches, written atomic.Int64
	group := groupcommit.New(func(_ context.Context, batch []*groupcommit.Write[int]) {
		batches.Add(1)
		written.Add(int64(len(batch)))
		runtime.Gosched()
		for _, w := range batch {
			w.Finish(outcome(w.Item))
		}
	})
	ctx, stop := context.WithCancel(t.Context())
	var run, writing sync.WaitGroup
	run.Go(func() { group.Run(ctx) })
	for range writers {
		writing.Go(func() {
			for item := range each {
				if group.TryAcquire() {
					batches.Add(1)
					written.Add(1)
					runtime.Gosched() // a transaction takes time, in which others join
					group.Release()
				} else if err := group.Join(ctx, item); !errors.Is(err, outcome(item)) {
					t.Errorf("item %d: %v, want %v", item, err, outcome(item))
				}
			}
		})
	}
	writing.Wait()
	stop()
	run.Wait()
	if n := written.Load(); n != writers*each {
		t.Errorf("%d writes, want %d", n, writers*each)
	}
	if batches.Load() >= written.Load() {
		t.Errorf("%d batches for %d writes", batches.Load(), written.Load())
	}
}
