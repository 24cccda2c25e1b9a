package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/metrics"
)

// ErrPanic is the error of work that panicked. What a Backend's URL, rows and server contain
// is not the process's own, so a panic that they cause must not end it.
var ErrPanic = errors.New("internal error")

// panicBackoff is how long a Backend is not ready after a panic. panicMemory ends a row of
// panics.
var panicBackoff = backoff.Policy{First: 2 * time.Second, Max: 5 * time.Minute}

const panicMemory = 30 * time.Minute

// Contain calls f and returns an ErrPanic if f panics. It logs the stack and counts the
// panic. The error and the log have no value of the panic but its text as a runtime error,
// as other values may hold data.
func Contain(ctx context.Context, work string, f func() error) (err error) {
	defer func() {
		value := recover()
		if value == nil {
			return
		}
		cause := fmt.Sprintf("a value of type %T", value)
		if e, ok := value.(runtime.Error); ok {
			cause = e.Error()
		}
		metrics.Panics.WithLabelValues(work).Inc()
		err = fmt.Errorf("%w: %s panicked", ErrPanic, work)
		logr.FromContextOrDiscard(ctx).Error(err, "Contained a panic", "cause", cause, "stack", string(debug.Stack()))
	}()
	return f()
}

// panics remembers the panics of work for one database.
type panics struct {
	mu    sync.Mutex
	last  error
	count int // in a row
	at    time.Time
	until time.Time
}

// contain is Contain, and remembers a panic.
func (p *panics) contain(ctx context.Context, work string, f func() error) error {
	err := Contain(ctx, work, f)
	if errors.Is(err, ErrPanic) {
		p.mu.Lock()
		defer p.mu.Unlock()
		now := time.Now()
		if now.Sub(p.at) > panicMemory {
			p.count = 0
		}
		p.count++
		p.last, p.at, p.until = err, now, now.Add(panicBackoff.Delay(p.count))
	}
	return err
}

// current returns the last panic until its backoff is over.
func (p *panics) current() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.until) {
		return p.last
	}
	return nil
}
