package controller

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
)

// tenantMigrations is the number of Backends of one namespace that are migrated at once. A
// migration waits for as long as others hold locks.
const tenantMigrations = 4

// backendChecks runs the checks of Backends, each in a task of its own. A database that hangs, or
// a migration that waits for a lock, delays nothing but its own Backend: the reconciler starts a
// check and is queued again at its end.
//
// There is at most one check of a Backend. One with other URLs or of another generation ends the
// check before it.
type backendChecks struct {
	// check is what a task does. It says in the task at which stage it is.
	check func(context.Context, *checkTask) (*backend.Connection, backendCheck)
	// current returns the published connection of a Backend.
	current func(types.NamespacedName) *backend.Connection
	ctx     context.Context
	end     context.CancelFunc
	tasks   sync.WaitGroup

	mu         sync.Mutex
	stopped    bool
	queue      func(types.NamespacedName)
	byKey      map[types.NamespacedName]*checkTask
	migrations map[string]*migrationSlots // by namespace
}

// checkTask is one check of a Backend.
type checkTask struct {
	object *v1alpha1.Backend
	urls   databaseURLs
	// of identifies what is checked.
	of      string
	started time.Time
	stage   atomic.Value // of backendStage
	cancel  context.CancelFunc

	// The rest is guarded by the mutex of backendChecks.
	canceled, done bool
	conn           *backend.Connection
	result         backendCheck
}

// at sets the stage of the check.
func (t *checkTask) at(stage backendStage) { t.stage.Store(stage) }

// errUnderWay is the error of a check that has not ended yet.
type errUnderWay struct{ since time.Time }

func (e errUnderWay) Error() string { return "under way since " + e.since.UTC().Format(time.RFC3339) }

// late returns, as a result, what a check waits for that takes longer than usual, or nil.
func (t *checkTask) late(now time.Time) *backendCheck {
	stage, _ := t.stage.Load().(backendStage)
	took := now.Sub(t.started)
	if stage == stageMigrate && took >= progressInterval || stage == stageSweep && took >= backend.SlowAfter {
		return &backendCheck{stage: stage, err: errUnderWay{t.started}}
	}
	return nil
}

func newBackendChecks(log logr.Logger) *backendChecks {
	ctx, end := context.WithCancel(logr.NewContext(context.Background(), log))
	return &backendChecks{
		ctx: ctx, end: end, byKey: map[types.NamespacedName]*checkTask{}, migrations: map[string]*migrationSlots{},
	}
}

// Start blocks until ctx ends, then ends all checks.
func (c *backendChecks) Start(ctx context.Context) error {
	<-ctx.Done()
	c.mu.Lock()
	c.stopped = true
	c.mu.Unlock()
	c.end()
	c.tasks.Wait()
	return nil
}

// hash identifies what a check reads of a Backend and its Secrets.
func (u *databaseURLs) hash(object *v1alpha1.Backend) string {
	parts := []string{u.main, u.migration, u.worker, string(u.ca), string(object.UID), strconv.FormatInt(object.Generation, 10)}
	for _, s := range u.podSecrets {
		parts = append(parts, string(s.Secret.GetUID()), s.Secret.GetResourceVersion())
	}
	return backend.HashOf(parts...)
}

// start returns the running check of a Backend, and starts it if there is none. It ends one that
// checks something else.
func (c *backendChecks) start(object *v1alpha1.Backend, urls databaseURLs) *checkTask {
	key := client.ObjectKeyFromObject(object)
	of := urls.hash(object)
	c.mu.Lock()
	defer c.mu.Unlock()
	if task := c.byKey[key]; task != nil {
		if task.of != of {
			task.canceled = true
			task.cancel()
		}
		return task
	}
	task := &checkTask{object: object.DeepCopy(), urls: urls, of: of, started: time.Now()}
	if c.stopped {
		return task
	}
	ctx, cancel := context.WithCancel(logr.NewContext(c.ctx, logr.FromContextOrDiscard(c.ctx).WithValues("namespace", key.Namespace, "name", key.Name)))
	task.cancel = cancel
	c.byKey[key] = task
	c.tasks.Go(func() {
		defer cancel()
		conn, result := c.check(ctx, task)
		c.finish(ctx, key, task, conn, result)
	})
	return task
}

// finish keeps the result of a check, unless that was ended.
func (c *backendChecks) finish(ctx context.Context, key types.NamespacedName, task *checkTask, conn *backend.Connection, result backendCheck) {
	c.mu.Lock()
	task.done, task.conn, task.result = true, conn, result
	if ctx.Err() != nil || task.canceled {
		c.dropLocked(key, task)
	}
	queue := c.queue
	c.mu.Unlock()
	if queue != nil {
		queue(key)
	}
}

// onDone makes each check queue its Backend at its end.
func (c *backendChecks) onDone(queue func(types.NamespacedName)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = queue
}

// take returns the result of the check of a Backend, once, if it has ended.
func (c *backendChecks) take(object *v1alpha1.Backend) (conn *backend.Connection, result backendCheck, ok bool) {
	key := client.ObjectKeyFromObject(object)
	c.mu.Lock()
	defer c.mu.Unlock()
	task := c.byKey[key]
	if task == nil || !task.done {
		return nil, backendCheck{}, false
	}
	if task.object.UID != object.UID || task.object.Generation != object.Generation {
		c.dropLocked(key, task)
		return nil, backendCheck{}, false
	}
	delete(c.byKey, key)
	return task.conn, task.result, true
}

// cancel ends the check of a Backend.
func (c *backendChecks) cancel(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch task := c.byKey[key]; {
	case task == nil:
	case task.done:
		c.dropLocked(key, task)
	default:
		task.canceled = true
		task.cancel()
	}
}

// dropLocked forgets a check, and closes its connection if that was never published.
func (c *backendChecks) dropLocked(key types.NamespacedName, task *checkTask) {
	if c.byKey[key] == task {
		delete(c.byKey, key)
	}
	if conn := task.conn; conn != nil && conn != c.current(key) {
		c.tasks.Go(conn.Store.Close)
	}
}

// migrationSlots are those of one namespace.
type migrationSlots struct {
	free chan struct{}
	used int
}

// migrate calls f when fewer than tenantMigrations of the namespace are under way.
func (c *backendChecks) migrate(ctx context.Context, namespace string, f func() error) error {
	c.mu.Lock()
	slots := c.migrations[namespace]
	if slots == nil {
		slots = &migrationSlots{free: make(chan struct{}, tenantMigrations)}
		c.migrations[namespace] = slots
	}
	slots.used++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if slots.used--; slots.used == 0 {
			delete(c.migrations, namespace)
		}
	}()
	select {
	case slots.free <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-slots.free }()
	return f()
}
