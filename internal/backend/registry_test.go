package backend

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// fakeStore is a database without runs.
type fakeStore struct {
	Store
	closed bool
}

func (s *fakeStore) Close() { s.closed = true }

func (s *fakeStore) RunStates(context.Context, []string) (map[string]*openworkflow.Run, error) {
	return nil, nil
}

// newFakeConnection returns a connection to a database without runs.
func newFakeConnection(hash string) (*Connection, *fakeStore) {
	s := &fakeStore{}
	return NewConnection(key, s, store.Options{}, hash), s
}

var (
	key     = types.NamespacedName{Namespace: "shop", Name: "default"}
	ready   = State{Known: true, Ready: true, Reason: v1alpha1.ReasonConnected}
	failing = State{Known: true, Reason: v1alpha1.ReasonUnreachable}
)

// The tests below run in bubbles of synctest: a sleep moves the bubble's clock, by which the registry's timers
// fire, and takes no time.

func TestRegistry_States(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		notified := 0
		r.Listen(func(types.NamespacedName) { notified++ })
		conn, database := newFakeConnection("1")
		expect := func(what string, state State, usable, everReady, lingering *Connection, calls int) {
			t.Helper()
			if got := r.State(key); got != state {
				t.Errorf("%s: state is %+v, want %+v", what, got, state)
			}
			if r.Ready(key) != usable || r.EverReady(key) != everReady || r.ReadyOrLingering(key) != lingering {
				t.Errorf("%s: Ready, EverReady, ReadyOrLingering return %p, %p, %p, want %p, %p, %p", what,
					r.Ready(key), r.EverReady(key), r.ReadyOrLingering(key), usable, everReady, lingering)
			}
			if (len(r.ReadyOrLingeringIn("shop")) > 0) != (lingering != nil) || len(r.ReadyOrLingeringIn("other")) > 0 {
				t.Errorf("%s: ReadyOrLingeringIn does not agree", what)
			}
			if notified != calls {
				t.Errorf("%s: the listener was called %d times, want %d", what, notified, calls)
			}
		}
		expect("unknown", State{}, nil, nil, nil, 0)
		if n := r.Publish(key, conn, failing); n != 1 {
			t.Errorf("%d failures, want 1", n)
		}
		expect("failing before it was ready", failing, nil, nil, nil, 1)
		r.Publish(key, conn, ready)
		expect("ready", ready, conn, conn, conn, 2)
		r.Publish(key, conn, ready)
		expect("checked again", ready, conn, conn, conn, 2)
		r.Publish(key, conn, failing)
		if n := r.Publish(key, conn, failing); n != 2 {
			t.Errorf("%d failures in a row, want 2", n)
		}
		expect("failing", failing, nil, conn, nil, 3)
		r.Publish(key, conn, ready)
		r.Remove(key)
		r.Remove(key)
		expect("lingering", NotFound("default"), nil, nil, conn, 5)

		time.Sleep(r.Linger - time.Second)
		if database.closed {
			t.Error("the connection is closed while it lingers")
		}
		r.Publish(key, conn, ready)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		expect("created again", ready, conn, conn, conn, 6)

		r.Remove(key)
		time.Sleep(r.Linger)
		synctest.Wait()
		expect("closed", State{}, nil, nil, nil, 7)
		if !database.closed {
			t.Error("the connection is open after it has lingered")
		}
	})
}

// A Backend is deleted, created and deleted again within the time that its connection lingers:
// that time counts from the last deletion.
func TestRegistry_P3_LingersFromTheLastDeletion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		conn, database := newFakeConnection("1")
		r.Publish(key, conn, failing)
		r.Publish(key, conn, ready)
		for range 3 { // each deletion has a timer
			r.Remove(key)
			time.Sleep(r.Linger / 4)
			r.Publish(key, conn, ready)
			time.Sleep(r.Linger / 8)
		}
		r.Publish(key, conn, failing)
		r.Remove(key)
		time.Sleep(r.Linger - time.Second)
		synctest.Wait()
		if r.ReadyOrLingering(key) != conn || r.State(key) != NotFound("default") || database.closed {
			t.Errorf("the connection does not linger: state %+v, closed %t", r.State(key), database.closed)
		}
		if n := r.Publish(key, conn, failing); n != 1 {
			t.Errorf("a new Backend begins with %d failures, want 1", n)
		}
		r.Remove(key)
		time.Sleep(r.Linger)
		synctest.Wait()
		if r.State(key) != (State{}) || !database.closed {
			t.Errorf("the connection has lingered: state %+v, closed %t", r.State(key), database.closed)
		}
	})
}

// TestRegistry_P3_KeepsWhatIsCheckedForANewBackend: the check of a Backend that is created while a connection
// lingers may take longer than that.
func TestRegistry_P3_KeepsWhatIsCheckedForANewBackend(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		loops := 0
		r.Loops = func(ctx context.Context, _ *Connection) {
			loops++
			<-ctx.Done()
		}
		conn, database := newFakeConnection("1")
		r.Publish(key, conn, ready)
		for range 2 {
			r.Remove(key)
			r.Keep(key)
			time.Sleep(2 * r.Linger)
			if r.Current(key) != conn || r.EverReady(key) != nil || database.closed {
				t.Errorf("the connection is not kept: closed %t", database.closed)
			}
			r.Publish(key, conn, failing)
			if r.EverReady(key) != nil {
				t.Error("pods may rely on a Backend that was never ready")
			}
			r.Publish(key, conn, ready)
			synctest.Wait()
			if loops != 1 || r.EverReady(key) != conn {
				t.Errorf("%d loops run, want 1", loops)
			}
		}
		r.Remove(key)
		r.Keep(key)
		r.Remove(key) // before it was checked
		time.Sleep(r.Linger)
		synctest.Wait()
		if r.Current(key) != nil || !database.closed {
			t.Error("the connection is open after it has lingered")
		}
	})
}

func TestRegistry_ClosesWhatItReplacesAndWhatIsOpenAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry()
		looping := make(chan string, 3)
		r.Loops = func(ctx context.Context, c *Connection) {
			looping <- c.Hash
			<-ctx.Done()
		}
		first, firstDatabase := newFakeConnection("1")
		second, secondDatabase := newFakeConnection("2")
		late, lateDatabase := newFakeConnection("3")
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Start(ctx) }()

		r.Publish(key, first, ready)
		if run, err := first.RunState(ctx, "id"); run != nil || err != nil {
			t.Errorf("a run is %v, %v", run, err)
		}
		r.Publish(key, second, ready)
		synctest.Wait()
		if !firstDatabase.closed || secondDatabase.closed {
			t.Errorf("closed: %t, %t; want only the first", firstDatabase.closed, secondDatabase.closed)
		}
		if _, err := first.RunState(ctx, "id"); !errors.Is(err, ErrClosed) {
			t.Errorf("error of a closed connection is %v", err)
		}
		stop()
		if err := <-done; err != nil || !secondDatabase.closed {
			t.Errorf("Start returned %v, and the second is closed: %t", err, secondDatabase.closed)
		}
		r.Publish(key, late, ready)
		if !lateDatabase.closed {
			t.Error("what is published after the end stays open")
		}
		close(looping)
		var got []string
		for hash := range looping {
			got = append(got, hash)
		}
		if slices.Sort(got); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("loops of %v", got)
		}
	})
}

func TestRegistry_RechecksOnlyWhatIsReady(t *testing.T) {
	t.Parallel()
	r := NewRegistry()
	r.Recheck(key) // nothing is set
	rechecks := 0
	r.OnRecheck(func(types.NamespacedName) { rechecks++ })
	r.Recheck(key)
	conn, _ := newFakeConnection("1")
	r.Publish(key, conn, failing)
	r.Recheck(key)
	if rechecks != 0 {
		t.Errorf("%d rechecks of a Backend that is not ready", rechecks)
	}
	r.Publish(key, conn, ready)
	r.Recheck(key)
	if rechecks != 1 {
		t.Errorf("%d rechecks, want 1", rechecks)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := r.Start(ctx); err != nil {
		t.Error(err)
	}
}
