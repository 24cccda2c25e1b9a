package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/metrics"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/poolspec"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Connection is the open database of one Backend.
type Connection struct {
	Store Store
	// Key names the Backend.
	Key types.NamespacedName
	// NamespaceID and Schema say where in the database the runs are.
	NamespaceID, Schema string
	// Hash changes with all that worker pods read of the Backend at their start.
	Hash string

	// creates, states and cancels share the calls of reconciles that are under way
	// together. Of a run that does not exist the state is nil, the status empty.
	creates *coalescer[store.NewRun, store.Created]
	states  *coalescer[string, *openworkflow.Run]
	cancels *coalescer[string, openworkflow.RunStatus]

	version string
	// retention is how long ended runs are kept in this database, nil for ever, as the
	// spec with which it was last checked says.
	retention atomic.Pointer[store.Retention]
	workers   atomic.Pointer[[]store.Worker]
	wakes     chan struct{}
	ended     atomic.Bool
	cancel    context.CancelFunc
	loops     sync.WaitGroup
}

// insertPacing spaces out inserts of runs. Runs that are inserted together are claimed
// together, and their workers' writes go together too: under load that is worth more to
// Postgres than a few milliseconds are to a run. Half of the reconciles that wait at once
// are enough, so that it does not bound their rate.
var insertPacing = pacing{perInput: 20 * time.Millisecond, max: 200 * time.Millisecond, fullAt: concurrentReconciles / 2}

// newConnection makes a connection of an open database. What runs beside it, the
// coalescers too, starts with Backends.Loops.
func newConnection(key types.NamespacedName, opened Store, o store.Options, hash string) *Connection {
	c := &Connection{
		Store:       opened,
		Key:         key,
		NamespaceID: o.NamespaceID,
		Schema:      o.Schema,
		Hash:        hash,
		wakes:       make(chan struct{}, 1),
	}
	c.creates = newCoalescer(sweepBatch, insertPacing, opened.CreateRuns)
	c.states = newCoalescer(sweepBatch, pacing{}, byID(opened.RunStates))
	c.cancels = newCoalescer(sweepBatch, insertPacing, byID(opened.CancelRuns))
	return c
}

// byID makes a call that returns a map one that returns a list.
func byID[out any](call func(context.Context, []string) (map[string]out, error)) func(context.Context, []string) ([]out, error) {
	return func(ctx context.Context, ids []string) ([]out, error) {
		found, err := call(ctx, ids)
		if err != nil {
			return nil, err
		}
		outputs := make([]out, len(ids))
		for i, id := range ids {
			outputs[i] = found[id]
		}
		return outputs, nil
	}
}

// Workers returns the live workers as last seen, a few seconds ago at most while
// the database answers. The slice is shared: do not change it.
func (c *Connection) Workers() []store.Worker {
	if w := c.workers.Load(); w != nil {
		return *w
	}
	return nil
}

// setWorkers remembers which workers are live.
func (c *Connection) setWorkers(workers []store.Worker) { c.workers.Store(&workers) }

// Wake tells workers that a run may be due. It does not block: hints that come
// together become one NOTIFY.
func (c *Connection) Wake() {
	select {
	case c.wakes <- struct{}{}:
	default:
	}
}

// Ended is Wake for when a run may have ended: clients who await its result are told
// too, and a parent that waits for it is due.
func (c *Connection) Ended() {
	c.ended.Store(true)
	c.Wake()
}

// BackendState is what the other controllers need to know of a Backend.
type BackendState struct {
	// Known is false until the Backend was looked at for the first time since the
	// manager's start. Nothing must be concluded, nor written, before.
	Known bool
	// Ready is true while the database can be used.
	Ready bool
	// Reason and Message are those of the Backend's Ready condition, or
	// BackendNotFound.
	Reason, Message string
}

// Backends holds the open database of each Backend. The Backend reconciler
// publishes into it; everybody else asks. It owns the connections: it closes
// them when they are replaced, when their Backend is gone, and at the end of Start.
type Backends struct {
	// Linger is how long a deleted Backend's connection stays open, so that runs
	// deleted together with it (a namespace's end) are still canceled.
	Linger time.Duration
	// Loops runs beside an open connection until ctx ends. It is started once.
	Loops func(ctx context.Context, c *Connection)

	mu        sync.Mutex
	entries   map[types.NamespacedName]*backendEntry
	listeners []func(types.NamespacedName)
	recheck   func(types.NamespacedName)
	closing   sync.WaitGroup
	stopped   bool
}

type backendEntry struct {
	conn     *Connection
	state    BackendState
	failures int
	// everReady: ready was true once for this connection: pods may rely on its settings.
	everReady bool
	// lingering is true when the Backend was deleted and its connection lingers.
	lingering bool
}

// NewBackends returns an empty registry.
func NewBackends() *Backends {
	return &Backends{
		Linger:  time.Minute,
		entries: map[types.NamespacedName]*backendEntry{},
	}
}

// Start blocks until ctx ends, then closes all connections.
func (b *Backends) Start(ctx context.Context) error {
	<-ctx.Done()
	b.mu.Lock()
	b.stopped = true
	for key, e := range b.entries {
		b.closeLocked(e)
		delete(b.entries, key)
	}
	b.mu.Unlock()
	b.closing.Wait()
	return nil
}

// Listen calls f with the key of each Backend whose state or connection
// changes. F must not block.
func (b *Backends) Listen(f func(types.NamespacedName)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listeners = append(b.listeners, f)
}

// State returns the state of a Backend.
func (b *Backends) State(key types.NamespacedName) BackendState {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil {
		return e.state
	}
	return BackendState{}
}

// Ready returns the connection of a Backend that can be used, or nil.
func (b *Backends) Ready(key types.NamespacedName) *Connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil && e.state.Ready {
		return e.conn
	}
	return nil
}

// EverReady returns the connection of a Backend that can be used or could be
// until its database went away, or nil.
func (b *Backends) EverReady(key types.NamespacedName) *Connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil && e.everReady && !e.lingering {
		return e.conn
	}
	return nil
}

// ReadyOrLingering returns the connection of a Backend that can be used, or that was
// deleted a moment ago: for what must still be told to the database.
func (b *Backends) ReadyOrLingering(key types.NamespacedName) *Connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil && (e.state.Ready || e.lingering && e.everReady) {
		return e.conn
	}
	return nil
}

// ByLabel is like ReadyOrLingering for the Backend in namespace whose LabelBackend value this is.
func (b *Backends) ByLabel(namespace, value string) *Connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, e := range b.entries {
		if key.Namespace == namespace && poolspec.LabelValue(key.Name) == value && (e.state.Ready || e.lingering && e.everReady) {
			return e.conn
		}
	}
	return nil
}

// Recheck asks for a check of a Backend now, because a statement has failed.
// While the Backend is known to be in trouble it does nothing.
func (b *Backends) Recheck(key types.NamespacedName) {
	b.mu.Lock()
	e, recheck := b.entries[key], b.recheck
	ready := e != nil && e.state.Ready
	b.mu.Unlock()
	if ready && recheck != nil {
		recheck(key)
	}
}

// notifyListeners tells listeners to look at a Backend again though its state is the
// same: who works for it has changed.
func (b *Backends) notifyListeners(key types.NamespacedName) {
	b.mu.Lock()
	listeners := b.listeners
	b.mu.Unlock()
	for _, f := range listeners {
		f(key)
	}
}

// open returns the connection that the Backend has, ready or not, or nil.
func (b *Backends) open(key types.NamespacedName) *Connection {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.entries[key]; e != nil {
		return e.conn
	}
	return nil
}

// publish sets a Backend's connection (nil when there is none) and state, and
// tells listeners when either has changed. A connection that is replaced is
// closed. It returns how often in a row the Backend was not ready.
func (b *Backends) publish(key types.NamespacedName, conn *Connection, state BackendState) (failures int) {
	b.mu.Lock()
	if b.stopped {
		b.mu.Unlock()
		if conn != nil {
			conn.Store.Close()
		}
		return 0
	}
	e := b.entries[key]
	if e == nil {
		e = &backendEntry{}
		b.entries[key] = e
	}
	changed := e.state != state || e.conn != conn
	if e.conn != conn {
		b.closeLocked(e)
		e.conn, e.everReady = conn, false
	}
	e.state, e.lingering = state, false
	if state.Ready {
		e.failures = 0
		if !e.everReady {
			e.everReady = true
			b.startLoops(conn)
		}
	} else {
		e.failures++
	}
	failures = e.failures
	listeners := b.listeners
	b.mu.Unlock()

	up := 0.0
	if state.Ready {
		up = 1
	}
	metrics.BackendUp.WithLabelValues(key.Namespace, key.Name).Set(up)
	if changed {
		for _, f := range listeners {
			f(key)
		}
	}
	return failures
}

// remove forgets a Backend that does not exist. Its connection lingers.
func (b *Backends) remove(key types.NamespacedName) {
	b.mu.Lock()
	e := b.entries[key]
	if e == nil || e.lingering || b.stopped {
		b.mu.Unlock()
		return
	}
	e.lingering = true
	e.state = BackendState{Known: true, Reason: v1alpha1.ReasonBackendNotFound, Message: backendNotFound(key.Name)}
	listeners := b.listeners
	b.mu.Unlock()

	metrics.BackendUp.DeleteLabelValues(key.Namespace, key.Name)
	for _, f := range listeners {
		f(key)
	}
	time.AfterFunc(b.Linger, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.entries[key] == e && e.lingering {
			b.closeLocked(e)
			delete(b.entries, key)
		}
	})
}

func (b *Backends) startLoops(c *Connection) {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	if b.Loops != nil {
		c.loops.Go(func() { b.Loops(ctx, c) })
	}
}

// closeLocked closes an entry's connection without waiting for those who use it.
func (b *Backends) closeLocked(e *backendEntry) {
	conn := e.conn
	if conn == nil {
		return
	}
	e.conn = nil
	if conn.cancel != nil {
		conn.cancel()
	}
	b.closing.Go(func() {
		conn.loops.Wait()
		conn.Store.Close()
	})
}

// backendHash identifies what a worker reads of its Backend at its start. It is
// short on purpose: it stands in an annotation, and 40 bits of a hash say too
// little about the password in the URL to confirm a guess.
func backendHash(o store.Options, secret v1alpha1.SecretKeyRef) string {
	h := sha256.New()
	for _, part := range []string{o.URL, o.Schema, o.NamespaceID, secret.Name, secret.Key} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:5])
}

// backoff returns the delay before the nth retry in a row: 1 s, 2 s, 4 s … up to
// the limit, less up to a quarter so that many do not come together.
func backoff(n int, limit time.Duration) time.Duration {
	d := time.Second << min(max(n-1, 0), 20)
	return jitter(min(d, limit))
}

// jitter returns d less up to a quarter of it.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/4+1)
}
