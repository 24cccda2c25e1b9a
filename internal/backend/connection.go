package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/wake"
)

const (
	// maxBatch is the number of creates, reads or cancels that share one call.
	maxBatch = 500
	// FullAt is the number of waiting inserts that are sent without a pause. Callers that
	// insert concurrently should be twice as many, so that the pauses do not bound their
	// rate.
	FullAt = 32
	// callTimeout bounds one call, and notifyTimeout one NOTIFY.
	callTimeout   = time.Minute
	notifyTimeout = 10 * time.Second
)

// insertPacing coalesces inserts of runs, and cancels, for up to 200 ms. Runs that are
// inserted together are claimed together, and their workers' writes are committed
// together: under load this saves Postgres more than the pause costs a run.
var insertPacing = pacing{perInput: 20 * time.Millisecond, max: 200 * time.Millisecond, fullAt: FullAt}

// Connection is the open database of one Backend. Its methods may be called concurrently.
type Connection struct {
	Store Store
	// Key names the Backend.
	Key types.NamespacedName
	// NamespaceID and Schema say where in the database the runs are.
	NamespaceID, Schema string
	// Hash identifies what the connection was opened with. It is a hash of a password, so it
	// stays in memory.
	Hash string
	// ServerVersion is that of the server, as the last check before the first Publish
	// found it. It is set before the connection is published.
	ServerVersion string
	// Warning is what is wrong with a database that can be used. It is set with ServerVersion.
	Warning string

	creates *coalescer[store.NewRun, store.Created]
	keyed   *coalescer[store.NewRun, store.Created]
	states  *coalescer[string, *openworkflow.Run]
	cancels *coalescer[string, openworkflow.RunStatus]

	podSettings atomic.Pointer[PodSettings]
	retention   atomic.Pointer[store.Retention]
	workers     atomic.Pointer[[]store.Worker]
	hints       wake.Flag
	ended       atomic.Bool
	panics      panics
	slow        slowness
	cancel      context.CancelFunc
	loops       sync.WaitGroup
}

// NewConnection returns the connection of an open database. CreateRun, RunState and
// CancelRun block until it is published as ready for the first time.
func NewConnection(key types.NamespacedName, opened Store, o store.Options, hash string) *Connection {
	c := &Connection{
		Key:         key,
		NamespaceID: o.NamespaceID,
		Schema:      o.Schema,
		Hash:        hash,
		hints:       wake.New(),
	}
	c.Store = boundedStore{opened, &c.slow}
	create := contained(&c.panics, "create", opened.CreateRuns)
	c.creates = newCoalescer(maxBatch, insertPacing, watched(&c.slow, func(created store.Created) error { return created.Err }, create))
	c.keyed = newCoalescer(maxBatch, insertPacing, create) // it may wait for keys
	c.states = newCoalescer(maxBatch, pacing{}, watched(&c.slow, func(*openworkflow.Run) error { return nil },
		contained(&c.panics, "read", byID(opened.RunStates))))
	c.cancels = newCoalescer(maxBatch, insertPacing, contained(&c.panics, "cancel", byID(opened.CancelRuns)))
	c.creates.slow, c.keyed.slow, c.states.slow, c.cancels.slow = &c.slow, &c.slow, &c.slow, &c.slow
	return c
}

// contained returns a coalesced call whose panics are errors.
func contained[in, out any](p *panics, work string, call func(context.Context, []in) ([]out, error)) func(context.Context, []in) ([]out, error) {
	return func(ctx context.Context, inputs []in) (outputs []out, err error) {
		err = p.contain(ctx, work, func() (err error) {
			outputs, err = call(ctx, inputs)
			if err == nil && len(outputs) != len(inputs) {
				err = fmt.Errorf("%w: %d answers to %d questions", ErrPanic, len(outputs), len(inputs))
			}
			return err
		})
		return outputs, err
	}
}

// Contain is the function Contain for work on this database. The Backend is not ready for a
// while after a panic; see Panicked.
func (c *Connection) Contain(ctx context.Context, work string, f func() error) error {
	return c.panics.contain(ctx, work, f)
}

// Panicked returns the error of the last panic while its backoff lasts, which grows with the
// number of panics.
func (c *Connection) Panicked() error { return c.panics.current() }

// byID turns a call that returns a map by id into one that returns a list.
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

// CreateRun inserts a run in a transaction that concurrent calls share. Each succeeds or
// fails by itself (Created.Err), unless the database fails. A run with an idempotency key, whose
// lock somebody may hold, delays none without.
func (c *Connection) CreateRun(ctx context.Context, run store.NewRun) (store.Created, error) {
	if run.IdempotencyKey != nil {
		return c.keyed.do(ctx, run)
	}
	return c.creates.do(ctx, run)
}

// RunState reads a run, nil if it does not exist, by a query that concurrent calls share.
func (c *Connection) RunState(ctx context.Context, id string) (*openworkflow.Run, error) {
	return c.states.do(ctx, id)
}

// CancelRun cancels a run in a transaction that concurrent calls share. It returns the
// status of the run, empty if it does not exist.
func (c *Connection) CancelRun(ctx context.Context, id string) (openworkflow.RunStatus, error) {
	return c.cancels.do(ctx, id)
}

// PodSettings are what worker pods read of their Backend when they start, besides where in the database the
// runs are.
type PodSettings struct {
	Secret  v1alpha1.SecretKeyRef
	SSLMode string
	CA      v1alpha1.CASecretKeyRef
	// Hash changes with all of it, and with the contents of the Secrets; see PodsHash.
	Hash string
}

// PodSettings returns the settings that the last check without an error has found. The spec may name others
// by now, with which no pod could work.
func (c *Connection) PodSettings() PodSettings {
	if settings := c.podSettings.Load(); settings != nil {
		return *settings
	}
	return PodSettings{}
}

// SetPodSettings changes PodSettings and reports whether they were others.
func (c *Connection) SetPodSettings(settings PodSettings) (changed bool) {
	before := c.podSettings.Swap(&settings)
	return before == nil || *before != settings
}

// Retention returns how long ended runs are kept in this database, nil for ever.
func (c *Connection) Retention() *store.Retention { return c.retention.Load() }

// SetRetention changes Retention.
func (c *Connection) SetRetention(r *store.Retention) { c.retention.Store(r) }

// Workers returns the live workers as SetWorkers was last told. The slice is shared: do
// not change it.
func (c *Connection) Workers() []store.Worker {
	if w := c.workers.Load(); w != nil {
		return *w
	}
	return nil
}

// SetWorkers changes Workers.
func (c *Connection) SetWorkers(workers []store.Worker) { c.workers.Store(&workers) }

// Wake sends workers the hint that a run may be due. It does not block: hints that are
// requested while one is sent become one NOTIFY.
func (c *Connection) Wake() { c.hints.Set() }

// Ended is Wake for a run that may have ended: it also notifies clients that wait for a
// result.
func (c *Connection) Ended() {
	c.ended.Store(true)
	c.Wake()
}

// run executes the coalesced calls and sends the hints until ctx ends.
func (c *Connection) run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { c.creates.run(ctx) })
	loops.Go(func() { c.keyed.run(ctx) })
	loops.Go(func() { c.states.run(ctx) })
	loops.Go(func() { c.cancels.run(ctx) })
	loops.Go(func() { c.sendHints(ctx) })
	loops.Wait()
}

// sendHints sends the hints that Wake and Ended request. A lost hint costs a poll
// interval.
func (c *Connection) sendHints(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.hints:
		}
		err := c.Contain(ctx, "notify", func() error {
			err := within(ctx, notifyTimeout, c.Store.Notify)
			if c.ended.Swap(false) {
				err = errors.Join(err, within(ctx, notifyTimeout, c.Store.NotifyEnds))
			}
			return err
		})
		if err != nil {
			logr.FromContextOrDiscard(ctx).V(1).Info("Lost a wake-up hint", "error", err.Error())
		}
	}
}

// Hash identifies what a connection is opened with.
func Hash(o store.Options, migrationURL string) string {
	return HashOf(o.URL, migrationURL, o.Schema, o.NamespaceID, o.Encryption.Mode, string(o.Encryption.CA))
}

// PodSecret is a key of a Secret that worker pods read when they start.
type PodSecret struct {
	Secret metav1.Object
	Key    string
}

// PodsHash identifies what worker pods read of their Backend when they start, by the versions of
// the Secrets with their URL and the CA. It is published in an annotation, so nothing secret goes
// into it: a hash of the URL would confirm a guess of the password.
func PodsHash(o store.Options, secrets ...PodSecret) string {
	parts := []string{o.Schema, o.NamespaceID, o.Encryption.Mode}
	for _, s := range secrets {
		parts = append(parts, s.Secret.GetName(), string(s.Secret.GetUID()), s.Secret.GetResourceVersion(), s.Key)
	}
	return HashOf(parts...)[:10]
}

// HashOf returns a hash of texts.
func HashOf(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil))
}

func within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}
