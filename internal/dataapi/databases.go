package dataapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/store"
)

const (
	// openTimeout bounds the reading of a Secret and the first connection to a database.
	openTimeout = 5 * time.Second
	// secretMaxAge is how long the URL of an open database is used before its Secret is read again.
	secretMaxAge = 30 * time.Second
	// idleTimeout is how long a database stays open after its last request.
	idleTimeout = 5 * time.Minute
	// defaultMaxOpen is that of Databases. Each takes some 100 KiB, and a connection.
	defaultMaxOpen = 200
	// maxConns bounds the connections to one database. A request uses one at a time.
	maxConns = 8
)

// Databases opens the database of a Backend at the first request for it, and closes it once
// none has come for 5 minutes. Every replica of the manager has its own, leader or not. Its
// methods may be called concurrently.
type Databases struct {
	// Backends reads Backends and WorkerPools from a cache.
	Backends client.Reader
	// Secrets reads Secrets, and who has suspended a WorkflowRun, without a cache.
	Secrets client.Reader
	// Open opens a database.
	Open func(ctx context.Context, o store.Options) (*store.Store, error)
	// MaxOpen bounds the databases that stay open without a request; zero means 200. Beyond it, the one
	// that was used longest ago is closed.
	MaxOpen int

	mu      sync.Mutex
	entries map[types.NamespacedName]*database
	closed  bool
}

// database is the open database of a Backend.
type database struct {
	*store.Store
	creates *backend.Creator[started]
	// stop ends what executes the creates.
	stop func()
	// backend is the Backend's name.
	backend string
	hash    string
	// uid and generation are those of the Backend that the URL was read for.
	uid        types.UID
	generation int64
	// users counts the requests under way, and one for being the Backend's current one.
	users     int
	checkedAt time.Time
	usedAt    time.Time
	// forks counts those under way.
	forks atomic.Int32
}

// Start closes unused databases until ctx ends, then all.
func (d *Databases) Start(ctx context.Context) error {
	ticker := time.NewTicker(idleTimeout / 5)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			d.mu.Lock()
			defer d.mu.Unlock()
			d.closed = true
			for key := range d.entries {
				d.removeLocked(key)
			}
			return nil
		case now := <-ticker.C:
			d.mu.Lock()
			for key, entry := range d.entries {
				if entry.users == 1 && now.Sub(entry.usedAt) > idleTimeout {
					d.removeLocked(key)
				}
			}
			d.mu.Unlock()
		}
	}
}

// NeedLeaderElection says that standbys answer requests too.
func (d *Databases) NeedLeaderElection() bool { return false }

// use calls f with each database of the namespace, or with that of the one Backend if a name is
// given. A database that cannot be opened fails the call with a status that names its Backend.
func (d *Databases) use(ctx context.Context, namespace, name string, f func([]*database) error) error {
	backends, err := d.list(ctx, namespace, name)
	if err != nil {
		return err
	}
	var open []*database
	defer func() {
		for _, entry := range open {
			d.release(entry)
		}
	}()
	for i := range backends {
		entry, err := d.acquire(ctx, &backends[i])
		if err != nil {
			return unavailable(&backends[i], err)
		}
		open = append(open, entry)
	}
	return f(open)
}

// list returns the Backends of a namespace, or the one of this name, in the order of their names.
func (d *Databases) list(ctx context.Context, namespace, name string) ([]v1alpha1.Backend, error) {
	if name != "" {
		var object v1alpha1.Backend
		if err := d.Backends.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &object); err != nil {
			if apierrors.IsNotFound(err) {
				return nil, apierrors.NewBadRequest(backend.NotFound(name).Message)
			}
			return nil, fmt.Errorf("get Backend %s/%s: %w", namespace, name, err)
		}
		return []v1alpha1.Backend{object}, nil
	}
	var objects v1alpha1.BackendList
	if err := d.Backends.List(ctx, &objects, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("list Backends of %s: %w", namespace, err)
	}
	slices.SortFunc(objects.Items, func(a, b v1alpha1.Backend) int { return strings.Compare(a.Name, b.Name) })
	return objects.Items, nil
}

// acquire returns the open database of a Backend. The caller releases it.
func (d *Databases) acquire(ctx context.Context, object *v1alpha1.Backend) (*database, error) {
	key := client.ObjectKeyFromObject(object)
	now := time.Now()
	d.mu.Lock()
	entry := d.entries[key]
	if entry != nil && entry.uid == object.UID && entry.generation == object.Generation && now.Sub(entry.checkedAt) < secretMaxAge {
		entry.users++
		entry.usedAt = now
		d.mu.Unlock()
		return entry, nil
	}
	d.mu.Unlock()

	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	postgres := &object.Spec.Postgres
	url, err := d.read(ctx, object.Namespace, postgres.URLSecretRef.Name, postgres.URLSecretRef.Key)
	if err != nil {
		return nil, err
	}
	var ca []byte
	if ref := postgres.CASecretRef; ref.Name != "" {
		if ca, err = d.read(ctx, object.Namespace, ref.Name, ref.Key); err != nil {
			return nil, err
		}
	}
	options := store.Options{
		URL:             string(url),
		Schema:          object.Spec.Schema,
		NamespaceID:     backend.NamespaceID(object),
		ApplicationName: "openworkflow-data-api",
		MaxConns:        maxConns,
		KeyPatience:     keyPatience,
		Untrusted:       true,
		Encryption:      store.Encryption{Mode: postgres.SSLMode, CA: ca},
	}
	hash := backend.Hash(options, "")
	if entry := d.reuse(object, hash, now); entry != nil {
		return entry, nil
	}
	opened, err := d.Open(ctx, options)
	if err != nil {
		return nil, err
	}
	return d.publish(key, &database{
		Store: opened, stop: func() {}, backend: object.Name, hash: hash, uid: object.UID, generation: object.Generation, checkedAt: now, usedAt: now,
	})
}

// reuse returns the current database if it was opened with the same URL.
func (d *Databases) reuse(object *v1alpha1.Backend, hash string, now time.Time) *database {
	d.mu.Lock()
	defer d.mu.Unlock()
	entry := d.entries[client.ObjectKeyFromObject(object)]
	if entry == nil || entry.hash != hash {
		return nil
	}
	entry.users++
	entry.uid, entry.generation, entry.checkedAt, entry.usedAt = object.UID, object.Generation, now, now
	return entry
}

// publish makes a database the current one of its Backend, in the place of another.
func (d *Databases) publish(key types.NamespacedName, entry *database) (*database, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		entry.close()
		return nil, errClosed
	}
	if d.entries == nil {
		d.entries = map[types.NamespacedName]*database{}
	}
	d.removeLocked(key)
	entry.users = 2
	entry.start()
	d.entries[key] = entry
	d.boundLocked()
	return entry, nil
}

// boundLocked closes databases that no request uses, those that were used longest ago, while more than
// MaxOpen are open.
func (d *Databases) boundLocked() {
	for len(d.entries) > cmp.Or(d.MaxOpen, defaultMaxOpen) {
		var oldest types.NamespacedName
		var found *database
		for key, entry := range d.entries {
			if entry.users == 1 && (found == nil || entry.usedAt.Before(found.usedAt)) {
				oldest, found = key, entry
			}
		}
		if found == nil {
			return
		}
		d.removeLocked(oldest)
	}
}

// start executes the creates until stop is called.
func (entry *database) start() {
	opened := entry.Store
	entry.creates = backend.NewCreator(func(ctx context.Context, runs []store.NewRun) ([]started, error) {
		return createRuns(ctx, opened, runs)
	})
	ctx, cancel := context.WithCancel(logr.NewContext(context.Background(), ctrl.Log.WithName("data-api")))
	done := make(chan struct{})
	go func() {
		defer close(done)
		entry.creates.Run(ctx)
	}()
	entry.stop = func() { cancel(); <-done }
}

// close ends the creates and closes the connections. It waits for statements that were abandoned.
func (entry *database) close() {
	entry.stop()
	entry.Close()
}

var errClosed = errors.New("the manager is shutting down")

// release ends the use of a database.
func (d *Databases) release(entry *database) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.releaseLocked(entry)
}

func (d *Databases) releaseLocked(entry *database) {
	if entry.users--; entry.users == 0 {
		go entry.close()
	}
}

func (d *Databases) removeLocked(key types.NamespacedName) {
	if entry := d.entries[key]; entry != nil {
		delete(d.entries, key)
		d.releaseLocked(entry)
	}
}

// read returns a key of a Secret.
func (d *Databases) read(ctx context.Context, namespace, name, key string) ([]byte, error) {
	var secret corev1.Secret
	if err := d.Secrets.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, &secret); err != nil {
		return nil, fmt.Errorf("read Secret %q: %w", name, err)
	}
	if len(secret.Data[key]) == 0 {
		return nil, fmt.Errorf("the Secret %q has no key %q", name, key)
	}
	return secret.Data[key], nil
}
