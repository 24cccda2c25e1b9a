package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// fakeOutcomes is a store of outcomes in memory. A statement takes a millisecond.
type fakeOutcomes struct {
	mu       sync.Mutex
	outcomes map[string]store.Outcome
	err      error
	bad      string // an id that a statement fails for
	wake     func()
	polls    []int // how many runs each statement asked for
}

func (f *fakeOutcomes) Outcomes(ctx context.Context, ids []string) (map[string]store.Outcome, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Millisecond):
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.polls = append(f.polls, len(ids))
	if f.err != nil {
		return nil, f.err
	}
	if f.bad != "" && slices.Contains(ids, f.bad) {
		return nil, store.ErrInvalidJSON
	}
	got := map[string]store.Outcome{}
	for _, id := range ids {
		if o, ended := f.outcomes[id]; ended {
			got[id] = o
		}
	}
	return got, nil
}

func (f *fakeOutcomes) ListenEnds(ctx context.Context, wake func()) error {
	f.mu.Lock()
	f.wake = wake
	f.mu.Unlock()
	wake()
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeOutcomes) end(id string, notify bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outcomes[id] = store.Outcome{Status: "completed"}
	if notify {
		f.wake()
	}
}

func (f *fakeOutcomes) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// statements returns the number of statements since the last call.
func (f *fakeOutcomes) statements() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.polls)
	f.polls = nil
	return n
}

// inBubble runs a test of an outcomePoller with a fake clock. The bubble fails the test when
// a goroutine is left over.
func inBubble(t *testing.T, test func(t *testing.T, p *outcomePoller, f *fakeOutcomes)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		life, stop := context.WithCancel(t.Context())
		var tasks sync.WaitGroup
		f := &fakeOutcomes{outcomes: map[string]store.Outcome{}}
		p := newOutcomePoller(life, f, tasks.Go)
		test(t, p, f)
		stop()
		tasks.Wait()
		if len(p.runs) != 0 {
			t.Errorf("%d runs are still awaited", len(p.runs))
		}
	})
}

func TestWait_ThousandsShareAFewStatements(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *outcomePoller, f *fakeOutcomes) {
		const runs = 5000
		var ended atomic.Int64
		var wg sync.WaitGroup
		for i := range runs {
			wg.Go(func() {
				if _, err := p.wait(t.Context(), fmt.Sprint(i)); err != nil {
					t.Errorf("wait: %v", err)
				}
				ended.Add(1)
			})
		}
		synctest.Wait()
		time.Sleep(500 * time.Millisecond)
		if n := f.statements(); n > 5 {
			t.Errorf("%d statements to begin with", n)
		}
		began := time.Now()
		for i := range runs {
			f.end(fmt.Sprint(i), true)
		}
		wg.Wait()
		if n := f.statements(); n > 3 {
			t.Errorf("%d statements for %d ends at once", n, runs)
		}
		if took := time.Since(began); took > 50*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

func TestWait_PollsANewRunAtOnce_AndOnlyThatOne(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *outcomePoller, f *fakeOutcomes) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { _, _ = p.wait(ctx, fmt.Sprint("open-", i)) })
		}
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		f.statements()
		f.end("done", false)
		began := time.Now()
		if o, err := p.wait(t.Context(), "done"); err != nil || o.Status != "completed" {
			t.Errorf("%+v, %v", o, err)
		}
		if took := time.Since(began); took > 10*time.Millisecond {
			t.Errorf("took %v", took)
		}
		f.mu.Lock()
		if len(f.polls) != 1 || f.polls[0] != 1 {
			t.Errorf("statements asked for %v runs, want 1", f.polls)
		}
		f.mu.Unlock()
		cancel()
		wg.Wait()
	})
}

// TestWait_P7_ABadIDFailsOnlyItsOwnCaller: a statement asks for the runs of all callers.
func TestWait_P7_ABadIDFailsOnlyItsOwnCaller(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *outcomePoller, f *fakeOutcomes) {
		f.bad = "bad"
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if _, err := p.wait(t.Context(), fmt.Sprint(i)); err != nil {
					t.Errorf("wait for %d: %v", i, err)
				}
			})
		}
		wg.Go(func() {
			if _, err := p.wait(t.Context(), "bad"); !errors.Is(err, store.ErrInvalidJSON) {
				t.Errorf("wait for the bad id: %v, want %v", err, store.ErrInvalidJSON)
			}
		})
		synctest.Wait()
		for i := range 20 {
			f.end(fmt.Sprint(i), false)
		}
		wg.Wait()
	})
}

func TestWait_NeedsNoNotification(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *outcomePoller, f *fakeOutcomes) {
		time.AfterFunc(10*time.Second+300*time.Millisecond, func() { f.end("x", false) })
		began := time.Now()
		if _, err := p.wait(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 12*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestWait_ManyMayWaitForOneRun(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *outcomePoller, f *fakeOutcomes) {
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				ctx, want := t.Context(), error(nil)
				if i < 5 {
					ctx, want = impatient, context.DeadlineExceeded
				}
				if _, err := p.wait(ctx, "x"); !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
			})
		}
		time.Sleep(2 * time.Second)
		f.end("x", true)
		wg.Wait()
	})
}

func TestWait_P6_OutlastsAnOutageOfTheDatabase(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *outcomePoller, f *fakeOutcomes) {
		f.fail(store.ErrUnreachable)
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := p.wait(soon, "x"); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("%v, want it to say why it took so long", err)
		}
		time.AfterFunc(time.Minute, func() {
			f.end("x", false)
			f.fail(nil)
		})
		if _, err := p.wait(t.Context(), "x"); err != nil {
			t.Error(err)
		}
	})
}

func TestWait_NoStatementsWhileNobodyWaits(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, p *outcomePoller, f *fakeOutcomes) {
		f.end("x", false)
		if _, err := p.wait(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		f.statements()
		time.Sleep(time.Hour)
		if n := f.statements(); n != 0 {
			t.Errorf("%d statements", n)
		}
	})
}

func TestWait_EndsWithTheClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		life, stop := context.WithCancel(t.Context())
		var tasks sync.WaitGroup
		p := newOutcomePoller(life, &fakeOutcomes{}, tasks.Go)
		time.AfterFunc(time.Second, stop)
		if _, err := p.wait(t.Context(), "x"); !errors.Is(err, ErrClosed) {
			t.Errorf("%v, want ErrClosed", err)
		}
		tasks.Wait()
	})
}

func TestNotify_ConcurrentCallsShareANotification(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		var tasks, hints sync.WaitGroup
		n := newNotifier(t.Context(), func(context.Context) error {
			time.Sleep(time.Millisecond)
			sent.Add(1)
			return errors.New("lost")
		}, tasks.Go)
		hints.Go(func() { n.notify(t.Context()) })
		synctest.Wait() // one is being sent
		for range 1000 {
			hints.Go(func() {
				n.notify(t.Context())
				if sent.Load() < 2 { // the first one started before this call
					t.Error("notify returned before its notification was sent")
				}
			})
		}
		hints.Wait()
		tasks.Wait()
		if n := sent.Load(); n != 2 {
			t.Errorf("%d notifications, want 2", n)
		}
	})
}

func TestNotify_ReturnsWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		life, stop := context.WithCancel(t.Context())
		var tasks sync.WaitGroup
		n := newNotifier(life, func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		}, tasks.Go)
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		n.notify(soon)
		if took := time.Since(began); took > time.Second {
			t.Errorf("took %v", took)
		}
		stop()
		n.notify(t.Context()) // of a client that is closed
		tasks.Wait()
	})
}
