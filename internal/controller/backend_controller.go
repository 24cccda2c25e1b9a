package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/backoff"
	"github.com/openworkflow-operator/operator/internal/store"
)

// Time limits of the parts of a Backend's check. A migration may build indexes on large
// tables; only its own Backend waits for it.
const (
	connectTimeout = 10 * time.Second
	migrateTimeout = 30 * time.Minute
	sweepTimeout   = 5 * time.Minute
	// progressInterval is the time between two looks at a check that is under way, at its
	// Secrets too.
	progressInterval = 2 * time.Second
)

// BackendReconciler keeps a database open for each Backend.
//
// It does not list or watch Secrets, as the right to do so is the right to read all of
// them. It reads the one Secret at each check instead, so a corrected URL is used within
// seconds while the Backend is not ready, and a rotated one within the check interval.
type BackendReconciler struct {
	client.Client
	// Secrets reads Secrets without a cache.
	Secrets  client.Reader
	Backends *backend.Registry
	Open     backend.OpenFunc
	// Sweep runs before a Backend becomes ready, so that no worker executes a run whose
	// object was deleted while the manager was down.
	Sweep  func(ctx context.Context, c *backend.Connection) error
	Events events.EventRecorder
	Clock  clock.PassiveClock
	// CheckInterval is the time between two checks of a ready Backend, and the longest time
	// between two checks of one that is not. Defaults to 30 s.
	CheckInterval time.Duration

	checks *backendChecks
}

// +kubebuilder:rbac:groups=openworkflow.dev,resources=backends,verbs=get;list;watch;report;correct
// +kubebuilder:rbac:groups=openworkflow.dev,resources=backends/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// SetupWithManager registers the reconciler.
func (r *BackendReconciler) SetupWithManager(mgr ctrl.Manager, options controller.Options) error {
	if r.CheckInterval == 0 {
		r.CheckInterval = 30 * time.Second
	}
	r.checks = newBackendChecks(mgr.GetLogger().WithName("backend"))
	r.checks.check, r.checks.current = r.checkContained, r.Backends.Current
	if err := mgr.Add(r.checks); err != nil {
		return fmt.Errorf("add the checks of Backends: %w", err)
	}
	options.MaxConcurrentReconciles = 8 // they only call the API server
	return ctrl.NewControllerManagedBy(mgr).
		Named("backend").
		For(&v1alpha1.Backend{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			add := func(key types.NamespacedName) { queue.Add(reconcile.Request{NamespacedName: key}) }
			r.Backends.OnRecheck(add)
			r.checks.onDone(add)
			return nil
		})).
		WithOptions(options).
		Complete(r)
}

// Reconcile starts the check of one Backend or, when that has ended, publishes the result in the
// registry and writes status. A database that is down is a state, not an error: it is checked
// again with backoff, and logged once.
func (r *BackendReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var object v1alpha1.Backend
	if err := r.Get(ctx, req.NamespacedName, &object); err != nil {
		if apierrors.IsNotFound(err) {
			r.checks.cancel(req.NamespacedName)
			r.Backends.Remove(req.NamespacedName)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	r.Backends.Keep(req.NamespacedName)
	if conn, check, ok := r.checks.take(&object); ok {
		return r.conclude(ctx, &object, conn, check)
	}
	if text := object.Unreadable.SpecMessage(); text != "" {
		r.checks.cancel(req.NamespacedName)
		return r.conclude(ctx, &object, r.Backends.Current(req.NamespacedName), backendCheck{stage: stageSecret, err: errUnreadable{text}, logged: text})
	}
	urls, err := r.databaseURLs(ctx, &object)
	if ctx.Err() != nil {
		return ctrl.Result{}, ctx.Err()
	}
	if err != nil {
		r.checks.cancel(req.NamespacedName)
		return r.conclude(ctx, &object, r.Backends.Current(req.NamespacedName), backendCheck{stage: stageSecret, err: err, logged: err.Error()})
	}
	task := r.checks.start(&object, urls)
	if late := task.late(time.Now()); late != nil && r.Backends.Ready(req.NamespacedName) == nil {
		if _, err := r.conclude(ctx, &object, r.Backends.Current(req.NamespacedName), *late); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: progressInterval}, nil
}

// conclude publishes the result of a check and writes status.
func (r *BackendReconciler) conclude(ctx context.Context, object *v1alpha1.Backend, conn *backend.Connection, check backendCheck) (ctrl.Result, error) {
	key := client.ObjectKeyFromObject(object)
	if check.err == nil && conn != nil {
		check.err = cmp.Or(conn.Panicked(), conn.Slow())
	}
	state, status := planBackend(object, check, r.Clock.Now())
	before := r.Backends.State(key)
	failures := r.Backends.Publish(key, conn, state)
	if before.Ready != state.Ready || before.Reason != state.Reason {
		ctrl.LoggerFrom(ctx).Info("Backend changed", "ready", state.Ready, "reason", state.Reason, "message", state.Message, "error", check.logged)
	}

	if unreadable := object.Unreadable.StatusUnreadable(); unreadable || !equality.Semantic.DeepEqual(object.Status, status) {
		shown := conditionReason(object.Status.Conditions)
		patch := statusPatch(object.DeepCopy(), status, unreadable)
		object.Status = status
		if err := r.Status().Patch(ctx, object, patch, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(fmt.Errorf("write status of Backend %s: %w", key, err))
		}
		if shown != state.Reason {
			r.Events.Eventf(object, nil, eventType(state.Ready), state.Reason, "Connect", "%s", state.Message)
		}
	}

	if state.Ready {
		return ctrl.Result{RequeueAfter: backoff.Jitter(r.CheckInterval)}, nil
	}
	longest := r.CheckInterval
	switch state.Reason {
	case v1alpha1.ReasonSecretNotFound: // it is probably about to be created, and reading it is cheap
		longest = min(longest, 5*time.Second)
	case v1alpha1.ReasonSlow: // the check itself waits for the end of a lock
		longest = min(longest, 2*time.Second)
	}
	return ctrl.Result{RequeueAfter: backoff.Policy{First: time.Second, Max: longest}.Delay(failures)}, nil
}

// checkContained is checkDatabase, with an error text for the log. A panic is an error of this
// Backend only.
func (r *BackendReconciler) checkContained(ctx context.Context, task *checkTask) (conn *backend.Connection, check backendCheck) {
	conn = r.Backends.Current(client.ObjectKeyFromObject(task.object))
	err := backend.Contain(ctx, "check", func() error {
		conn, check = r.checkDatabase(ctx, task, conn)
		return nil
	})
	if err != nil {
		return conn, backendCheck{stage: stageOpen, err: err}
	}
	if check.err != nil {
		check.logged = redact(check.err.Error(), task.urls.main, task.urls.migration, task.urls.worker)
	}
	return conn, check
}

// checkDatabase returns the open connection of a Backend, or nil, and the result of its check. The
// connection may be used only if the check has no error. It is the published one unless what Hash
// covers has changed.
func (r *BackendReconciler) checkDatabase(ctx context.Context, task *checkTask, conn *backend.Connection) (*backend.Connection, backendCheck) {
	object, urls := task.object, task.urls
	key := client.ObjectKeyFromObject(object)
	options := store.Options{
		URL:             urls.main,
		Schema:          object.Spec.Schema,
		NamespaceID:     backend.NamespaceID(object),
		ApplicationName: "openworkflow-manager",
		MaxConns:        10,
		KeyPatience:     keyPatience,
		Untrusted:       true,
		Encryption:      store.Encryption{Mode: object.Spec.Postgres.SSLMode, CA: urls.ca},
	}
	if options.Encryption.Mode != "" {
		if _, err := options.Encryption.ModeOf(urls.worker); err != nil {
			return conn, backendCheck{stage: stageWorkers, err: err}
		}
	}
	hash := backend.Hash(options, urls.migration)
	settings := backend.PodSettings{
		Secret: object.Spec.Postgres.WorkerSecret(), SSLMode: object.Spec.Postgres.SSLMode, CA: object.Spec.Postgres.CASecretRef,
		Hash: backend.PodsHash(options, urls.podSecrets...),
	}
	if conn != nil && conn.Hash == hash && r.Backends.Ready(key) == conn {
		conn.SetRetention(retention(object))
		if conn.SetPodSettings(settings) {
			r.Backends.Notify(key)
		}
		check := backendCheck{stage: stagePing, version: conn.ServerVersion, conn: conn}
		check.err = within(ctx, connectTimeout, conn.Store.CheckWritable)
		return conn, check
	}

	if conn == nil || conn.Hash != hash {
		opened, err := open(ctx, r.Open, options)
		if err != nil {
			return nil, backendCheck{stage: stageOpen, err: err}
		}
		conn = backend.NewConnection(key, opened, options, hash)
	}
	// The retention belongs to the connection: a spec that changes the URL and the retention
	// at once must not remove anything from the previous database.
	conn.SetRetention(retention(object))
	check := r.prepare(ctx, task, conn, migrationOptions(options, urls))
	if check.err == nil {
		conn.SetPodSettings(settings)
	}
	return conn, check
}

// prepare migrates and checks the schema of an open database, then sweeps it for what has
// happened while the manager was not connected.
func (r *BackendReconciler) prepare(ctx context.Context, task *checkTask, conn *backend.Connection, migration *store.Options) backendCheck {
	if task.object.Spec.Migrate == nil || *task.object.Spec.Migrate {
		task.at(stageMigrate)
		if err := r.migrate(ctx, task.object.Namespace, conn, migration); err != nil {
			return backendCheck{stage: stageMigrate, err: err}
		}
	}
	task.at(stageSchema)
	if err := within(ctx, connectTimeout, conn.Store.CheckSchema); err != nil {
		return backendCheck{stage: stageSchema, err: err}
	}
	if err := within(ctx, connectTimeout, func(ctx context.Context) (err error) {
		if conn.ServerVersion, err = conn.Store.ServerVersion(ctx); err != nil {
			return err
		}
		built, actual, err := conn.Store.CollationChange(ctx)
		conn.Warning = collationWarning(built, actual)
		return err
	}); err != nil {
		return backendCheck{stage: stagePing, err: err}
	}
	if err := within(ctx, connectTimeout, conn.Store.CheckWritable); err != nil {
		return backendCheck{stage: stagePing, err: err}
	}
	task.at(stageSweep)
	check := backendCheck{stage: stageSweep, version: conn.ServerVersion, conn: conn}
	check.err = within(ctx, sweepTimeout, func(ctx context.Context) error {
		if err := conn.Probe(ctx); err != nil {
			return err
		}
		return r.Sweep(ctx, conn)
	})
	return check
}

// migrationOptions returns those of the login that migrates, nil if it is the manager's own.
func migrationOptions(options store.Options, urls databaseURLs) *store.Options {
	if urls.migration == options.URL {
		return nil
	}
	options.URL, options.MaxConns = urls.migration, 2
	return &options
}

// migrate migrates the schema, as a login of its own if there is one. Only what is to be migrated
// waits for other migrations of the namespace.
func (r *BackendReconciler) migrate(ctx context.Context, namespace string, conn *backend.Connection, migration *store.Options) error {
	err := within(ctx, connectTimeout, conn.Store.CheckSchema)
	if !errors.Is(err, store.ErrSchemaMissing) {
		return r.migrateAs(ctx, conn, migration)
	}
	return r.checks.migrate(ctx, namespace, func() error { return r.migrateAs(ctx, conn, migration) })
}

func (r *BackendReconciler) migrateAs(ctx context.Context, conn *backend.Connection, migration *store.Options) error {
	if migration == nil {
		return within(ctx, migrateTimeout, conn.Store.Migrate)
	}
	opened, err := open(ctx, r.Open, *migration)
	if err != nil {
		return err
	}
	defer opened.Close()
	return within(ctx, migrateTimeout, opened.Migrate)
}

// databaseURLs is what a check reads from a Backend's Secrets.
type databaseURLs struct {
	main, migration, worker string
	// ca has certificates in PEM form, and is empty if the Backend names none.
	ca []byte
	// podSecrets are the Secrets that worker pods read.
	podSecrets []backend.PodSecret
}

// databaseURLs reads the Backend's Secrets, each once.
func (r *BackendReconciler) databaseURLs(ctx context.Context, object *v1alpha1.Backend) (urls databaseURLs, err error) {
	postgres := &object.Spec.Postgres
	secrets := map[string]*corev1.Secret{}
	read := func(name, key, content string) []byte {
		if err != nil {
			return nil
		}
		if secrets[name] == nil {
			if secrets[name], err = r.secret(ctx, object.Namespace, name, key, content); err != nil {
				return nil
			}
		}
		value := secrets[name].Data[key]
		if len(value) == 0 {
			err = secretKeyMissing(name, key, content, slices.Collect(maps.Keys(secrets[name].Data)))
		}
		return value
	}
	main, migration, worker := postgres.URLSecretRef, postgres.MigrationSecret(), postgres.WorkerSecret()
	urls.main = string(read(main.Name, main.Key, contentURL))
	urls.migration = string(read(migration.Name, migration.Key, contentURL))
	urls.worker = string(read(worker.Name, worker.Key, contentURL))
	urls.podSecrets = []backend.PodSecret{{Secret: secrets[worker.Name], Key: worker.Key}}
	if ca := postgres.CASecretRef; ca.Name != "" {
		urls.ca = read(ca.Name, ca.Key, contentCA)
		urls.podSecrets = append(urls.podSecrets, backend.PodSecret{Secret: secrets[ca.Name], Key: ca.Key})
	}
	return urls, err
}

// secret reads a Secret of the Backend. The key and what it should hold are for the message that it
// is missing.
func (r *BackendReconciler) secret(ctx context.Context, namespace, name, key, content string) (*corev1.Secret, error) {
	if invalid := validation.NameIsDNSSubdomain(name, false); len(invalid) > 0 {
		return nil, secretImpossible(name) // the client would refuse a path, such as ../other
	}
	secret := &corev1.Secret{}
	err := within(ctx, connectTimeout, func(ctx context.Context) error {
		return r.Secrets.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, secret)
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, secretMissing(name, key, content)
	case err != nil:
		return nil, fmt.Errorf("read Secret %q: %w", name, err)
	default:
		return secret, nil
	}
}

func open(ctx context.Context, f backend.OpenFunc, o store.Options) (backend.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return f(ctx, o)
}

func within(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}

// backendState returns the state of a Backend that an object refers to. If the Backend was
// not checked yet, it is NotFound or unknown.
func backendState(ctx context.Context, reader client.Reader, backends *backend.Registry, key types.NamespacedName) (backend.State, error) {
	state := backends.State(key)
	if state.Known {
		return state, nil
	}
	var object v1alpha1.Backend
	switch err := reader.Get(ctx, key, &object); {
	case apierrors.IsNotFound(err):
		return backend.NotFound(key.Name), nil
	case err != nil:
		return backend.State{}, fmt.Errorf("get Backend %s: %w", key, err)
	default:
		return backend.State{}, nil
	}
}
