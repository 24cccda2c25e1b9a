package backend

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/openworkflow-operator/operator/internal/store"
)

// panickingStore panics in a call that the test chooses.
type panickingStore struct {
	fakeStore
	value any
}

func (s *panickingStore) CreateRuns(context.Context, []store.NewRun) ([]store.Created, error) {
	panic(s.value)
}

func (s *panickingStore) Notify(context.Context) error { panic(s.value) }

func (s *panickingStore) Close() { panic(s.value) }

// lockedLog keeps what several goroutines log.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(line)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// A panic in work for one database ends neither the process nor the tasks of its
// connection.
func TestConnection_P9_ContainsPanics(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log lockedLog
		ctx := logr.NewContext(t.Context(), funcr.New(func(_, args string) { log.add(args) }, funcr.Options{}))
		s := &panickingStore{value: "s3cr3t"}
		c := NewConnection(key, s, store.Options{}, "1")
		r := NewRegistry()
		r.Log = logr.FromContextOrDiscard(ctx)
		r.Publish(key, c, ready)
		for range 3 {
			c.Wake()
			if _, err := c.CreateRun(ctx, store.NewRun{}); !errors.Is(err, ErrPanic) {
				t.Fatalf("error is %v, want %v", err, ErrPanic)
			}
		}
		if err := c.Panicked(); !errors.Is(err, ErrPanic) {
			t.Errorf("Panicked is %v", err)
		}
		time.Sleep(panicBackoff.Max)
		if err := c.Panicked(); err != nil {
			t.Errorf("Panicked is %v after the backoff", err)
		}
		if run, err := c.RunState(ctx, "id"); run != nil || err != nil {
			t.Errorf("other calls return %v, %v", run, err)
		}
		stopped, stop := context.WithCancel(ctx)
		stop()
		if err := r.Start(stopped); err != nil {
			t.Error(err)
		}
		for _, want := range []string{"create panicked", "notify panicked", "close panicked", "panic_test.go"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("the log does not have %q", want)
			}
		}
		if strings.Contains(log.String(), "s3cr3t") {
			t.Error("the log has the value of the panic")
		}
	})
}
