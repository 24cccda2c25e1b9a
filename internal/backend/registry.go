package backend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/metrics"
)

// State is what is known of a Backend. The zero value is a Backend that was not checked
// since the start of the process.
type State struct {
	// Known is false until the first check. Until then nothing may be concluded, nor
	// written.
	Known bool
	// Ready is true while the database can be used.
	Ready bool
	// Reason and Message are those of the Backend's Ready condition, or BackendNotFound.
	Reason, Message string
}

// NotFound returns the state of a Backend that does not exist.
func NotFound(name string) State {
	return State{Known: true, Reason: v1alpha1.ReasonBackendNotFound, Message: fmt.Sprintf(
		"Backend %q does not exist in this namespace: create it, or name another in spec.backendRef", name)}
}

// KeyOf returns the name of the Backend that an object in this namespace refers to.
func KeyOf(namespace string, ref v1alpha1.BackendReference) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: NameOf(ref)}
}

// NamespaceID returns the OpenWorkflow namespace that the Backend's runs have in the tables.
func NamespaceID(object *v1alpha1.Backend) string {
	if object.Spec.NamespaceID != "" {
		return object.Spec.NamespaceID
	}
	return object.Namespace
}

// NameOf returns the name of the Backend that a reference names.
func NameOf(ref v1alpha1.BackendReference) string {
	if ref.Name == "" {
		return "default"
	}
	return ref.Name
}

// Registry holds the open database of each Backend; see the package comment for its
// states. It owns the connections: it closes them when they are replaced, when their
// Backend is gone, and when Start returns. Its methods may be called concurrently.
type Registry struct {
	// Linger is how long the connection of a deleted Backend stays open, so that runs
	// that were deleted with it (the end of a namespace) are still canceled.
	Linger time.Duration
	// Loops, if set, runs beside each open connection until ctx ends. It starts when the
	// Backend is ready for the first time.
	Loops func(ctx context.Context, c *Connection)
	// Log gets what is wrong with hints. The zero value discards it.
	Log logr.Logger

	mu        sync.Mutex
	entries   map[types.NamespacedName]*entry
	listeners []func(types.NamespacedName)
	onRecheck func(types.NamespacedName)
	closing   sync.WaitGroup
	stopped   bool
}

type entry struct {
	conn     *Connection
	state    State
	failures int
	// everReady is true once this connection was ready: pods may rely on its settings.
	everReady bool
	// lingering is true when the Backend was deleted, until one of its name was checked. The connection
	// is open until close fires, which is nil once there is such a Backend.
	lingering bool
	close     *time.Timer
}

// readyOrLingering reports whether the connection is usable, or was until its Backend was
// deleted.
func (e *entry) readyOrLingering() bool { return e.state.Ready || e.lingering && e.everReady }

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{
		Linger:  time.Minute,
		entries: map[types.NamespacedName]*entry{},
	}
}

// Start blocks until ctx ends, then closes all connections.
func (r *Registry) Start(ctx context.Context) error {
	<-ctx.Done()
	r.mu.Lock()
	r.stopped = true
	for key, e := range r.entries {
		r.closeLocked(e)
		delete(r.entries, key)
	}
	r.mu.Unlock()
	r.closing.Wait()
	return nil
}

// Listen calls f with the key of each Backend whose state or connection changes, and of
// those that Notify is called for. F must not block.
func (r *Registry) Listen(f func(types.NamespacedName)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.listeners = append(r.listeners, f)
}

// State returns the state of a Backend.
func (r *Registry) State(key types.NamespacedName) State {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[key]; e != nil {
		return e.state
	}
	return State{}
}

// Ready returns the connection of a Backend that is ready, or nil.
func (r *Registry) Ready(key types.NamespacedName) *Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[key]; e != nil && e.state.Ready {
		return e.conn
	}
	return nil
}

// EverReady returns the connection of a Backend that is ready, or was before its database
// failed, or nil.
func (r *Registry) EverReady(key types.NamespacedName) *Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[key]; e != nil && e.everReady && !e.lingering {
		return e.conn
	}
	return nil
}

// ReadyOrLingering returns the connection of a Backend that is ready, or was until it was
// deleted a moment ago, or nil. It is for writes that must follow a deletion.
func (r *Registry) ReadyOrLingering(key types.NamespacedName) *Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[key]; e != nil && e.readyOrLingering() {
		return e.conn
	}
	return nil
}

// ReadyOrLingeringIn returns the connections of a namespace for which ReadyOrLingering
// returns one, in no order.
func (r *Registry) ReadyOrLingeringIn(namespace string) []*Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	var connections []*Connection
	for key, e := range r.entries {
		if key.Namespace == namespace && e.readyOrLingering() {
			connections = append(connections, e.conn)
		}
	}
	return connections
}

// OnRecheck makes Recheck call f, which has the Backend checked soon. F must not block.
func (r *Registry) OnRecheck(f func(types.NamespacedName)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.onRecheck = f
}

// Recheck asks for a check of a Backend now, because a statement has failed. It does
// nothing while the Backend is known not to be ready: its checks are under way already.
func (r *Registry) Recheck(key types.NamespacedName) {
	r.mu.Lock()
	e, recheck := r.entries[key], r.onRecheck
	ready := e != nil && e.state.Ready
	r.mu.Unlock()
	if ready && recheck != nil {
		recheck(key)
	}
}

// Notify calls the listeners for a Backend whose state is the same, but whose workers have
// changed.
func (r *Registry) Notify(key types.NamespacedName) {
	r.mu.Lock()
	listeners := r.listeners
	r.mu.Unlock()
	for _, f := range listeners {
		f(key)
	}
}

// Current returns the connection of a Backend, ready or not, or nil.
func (r *Registry) Current(key types.NamespacedName) *Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[key]; e != nil {
		return e.conn
	}
	return nil
}

// Publish sets the connection of a Backend (nil when there is none) and its state, and
// calls the listeners if either has changed. It closes a connection that it replaces, and
// the given one after the end of Start. It returns how often in a row the Backend was
// published as not ready.
func (r *Registry) Publish(key types.NamespacedName, conn *Connection, state State) (failures int) {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		if conn != nil {
			conn.Store.Close()
		}
		return 0
	}
	e := r.entries[key]
	if e == nil {
		e = &entry{}
		r.entries[key] = e
	}
	r.keepLocked(e)
	changed := e.state != state || e.conn != conn
	r.updateLocked(e, conn, state)
	failures = e.failures
	r.mu.Unlock()

	up := 0.0
	if state.Ready {
		up = 1
	}
	metrics.BackendUp.WithLabelValues(key.Namespace, key.Name).Set(up)
	if changed {
		r.Notify(key)
	}
	return failures
}

func (r *Registry) updateLocked(e *entry, conn *Connection, state State) {
	if e.conn != conn {
		r.closeLocked(e)
		e.conn, e.everReady = conn, false
	}
	if e.lingering {
		e.lingering, e.everReady = false, false // pods of another Backend have relied on the settings
	}
	e.state = state
	if !state.Ready {
		e.failures++
		return
	}
	e.failures, e.everReady = 0, true
	if conn.cancel == nil {
		r.startLoops(conn)
	}
}

// Keep keeps the connection of a Backend open that exists, although one of its name was deleted a moment
// ago: its check may take longer than the connection lingers.
func (r *Registry) Keep(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.entries[key]; e != nil {
		r.keepLocked(e)
	}
}

func (r *Registry) keepLocked(e *entry) {
	if e.close != nil {
		e.close.Stop()
		e.close = nil
	}
}

// Remove makes a Backend that does not exist any more NotFound. Its connection lingers.
func (r *Registry) Remove(key types.NamespacedName) {
	r.mu.Lock()
	e := r.entries[key]
	if e == nil || e.close != nil || r.stopped {
		r.mu.Unlock()
		return
	}
	wasLingering := e.lingering // the Backend is deleted again before it was checked
	e.lingering, e.failures = true, 0
	e.state = NotFound(key.Name)
	var timer *time.Timer
	timer = time.AfterFunc(r.Linger, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		// A timer that could not be stopped belongs to an earlier deletion.
		if r.entries[key] == e && e.close == timer {
			r.closeLocked(e)
			delete(r.entries, key)
		}
	})
	e.close = timer
	r.mu.Unlock()

	metrics.BackendUp.DeleteLabelValues(key.Namespace, key.Name)
	if !wasLingering {
		r.Notify(key)
	}
}

func (r *Registry) startLoops(c *Connection) {
	ctx, cancel := context.WithCancel(logr.NewContext(context.Background(), r.Log))
	c.cancel = cancel
	c.slow.mu.Lock()
	c.slow.onMark = func() { r.Recheck(c.Key) }
	c.slow.mu.Unlock()
	c.loops.Go(func() { c.run(ctx) })
	if r.Loops != nil {
		c.loops.Go(func() { r.Loops(ctx, c) })
	}
}

// closeLocked closes an entry's connection, without waiting for calls that use it.
func (r *Registry) closeLocked(e *entry) {
	conn := e.conn
	if conn == nil {
		return
	}
	e.conn = nil
	if conn.cancel != nil {
		conn.cancel()
	}
	r.closing.Go(func() {
		conn.loops.Wait()
		_ = Contain(logr.NewContext(context.Background(), r.Log), "close", func() error {
			conn.Store.Close()
			return nil
		})
	})
}
