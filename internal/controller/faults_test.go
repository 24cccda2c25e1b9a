package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backend"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

type storeOptions = store.Options

// watchedStore calls back at two steps of the check of a Backend.
type watchedStore struct {
	backend.Store
	onMigrate, onVersion func()
}

func (s *watchedStore) Migrate(ctx context.Context) error {
	if s.onMigrate != nil {
		s.onMigrate()
	}
	return s.Store.Migrate(ctx)
}

func (s *watchedStore) ServerVersion(ctx context.Context) (string, error) {
	if s.onVersion != nil {
		s.onVersion()
	}
	return s.Store.ServerVersion(ctx)
}

var errKilled = errors.New("the manager is dead")

// killer kills a manager at its nth write of a run or of a status: after that write, or,
// with before, before the write arrives.
type killer struct {
	// of is how the names of the writes begin that count, empty for all.
	of     string
	mu     sync.Mutex
	left   int
	before bool
	dead   chan struct{}
	log    []string
}

func newKiller(n int, before bool) *killer {
	return &killer{left: n, before: before, dead: make(chan struct{})}
}

// write executes a write unless the manager is dead.
func (k *killer) write(name string, do func() error) error {
	k.mu.Lock()
	select {
	case <-k.dead:
		k.mu.Unlock()
		return errKilled
	default:
	}
	k.log = append(k.log, name)
	dies := false
	if strings.HasPrefix(name, k.of) {
		k.left--
		dies = k.left == 0
	}
	if dies {
		close(k.dead)
	}
	k.mu.Unlock()
	if dies && k.before {
		return errKilled
	}
	err := do()
	if dies {
		return errKilled // the process does not see the answer
	}
	return err
}

func (k *killer) open(ctx context.Context, o store.Options) (backend.Store, error) {
	s, err := backend.OpenStore(ctx, o)
	if err != nil {
		return nil, err
	}
	return &mortalStore{Store: s, k: k}, nil
}

func (k *killer) newClient(config *rest.Config, o client.Options) (client.Client, error) {
	inner, err := client.NewWithWatch(config, o)
	if err != nil {
		return nil, err
	}
	return interceptor.NewClient(inner, interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return k.write(fmt.Sprintf("status of %s", o.GetName()), func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return k.write("delete "+o.GetName(), func() error { return c.Delete(ctx, o, opts...) })
		},
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			return k.write(fmt.Sprintf("apply %T", o), func() error { return c.Apply(ctx, o, opts...) })
		},
	}), nil
}

// mortalStore is a database whose writes the killer counts.
type mortalStore struct {
	backend.Store
	k *killer
}

func (s *mortalStore) CreateRuns(ctx context.Context, runs []store.NewRun) (created []store.Created, err error) {
	err = s.k.write("create run", func() (err error) { created, err = s.Store.CreateRuns(ctx, runs); return err })
	return created, err
}

func (s *mortalStore) CancelRuns(ctx context.Context, ids []string) (states map[string]openworkflow.RunStatus, err error) {
	err = s.k.write("cancel run", func() (err error) { states, err = s.Store.CancelRuns(ctx, ids); return err })
	return states, err
}

func (s *mortalStore) SuspendRuns(ctx context.Context, ids []string) (n int, err error) {
	err = s.k.write("suspend run", func() (err error) { n, err = s.Store.SuspendRuns(ctx, ids); return err })
	return n, err
}

func (s *mortalStore) ResumeRuns(ctx context.Context, ids []string) (n int, err error) {
	err = s.k.write("resume run", func() (err error) { n, err = s.Store.ResumeRuns(ctx, ids); return err })
	return n, err
}

// TestManager_KilledBetweenAnyTwoWrites kills the manager at its first write, then at its
// second, and so on until it survives, both before and after the write arrives. A successor
// must reach the same state as a manager that was not killed.
func TestManager_KilledBetweenAnyTwoWrites(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("before=%t", before), func(t *testing.T) {
			w := newWorld(t)
			w.backend()
			s := (*store.Store)(nil)
			for n := 1; ; n++ {
				if n > 20 {
					t.Fatal("the manager never gets by with 20 writes")
				}
				plain := newTestRun(fmt.Sprintf("plain-%d", n))
				canceled := newTestRun(fmt.Sprintf("canceled-%d", n), func(r *run) { r.Spec.Cancel = new(true) })
				suspended := newTestRun(fmt.Sprintf("suspended-%d", n), func(r *run) { r.Spec.Suspend = new(true) })
				w.create(plain, canceled, suspended)

				k := newKiller(n, before)
				first := w.start(func(o *managerOptions) {
					o.Open, o.newClient = k.open, k.newClient
					o.Intervals = Intervals{Deadline: time.Hour, Rescue: time.Hour, Repair: time.Hour, Orphan: time.Hour, FirstReport: 100 * time.Millisecond}
				})
				survived := false
				shown := func() error { return allShown(w, plain, canceled, suspended) }
				eventually(t, func() error {
					select {
					case <-k.dead:
						return nil
					default:
					}
					if err := shown(); err != nil {
						return err
					}
					survived = true
					return nil
				})
				first.halt()

				successor := w.start()
				eventually(t, shown)
				successor.halt()
				if s == nil {
					s = w.store()
				}
				for r, want := range map[*v1alpha1.WorkflowRun]openworkflow.RunStatus{
					plain: openworkflow.RunPending, canceled: openworkflow.RunCanceled, suspended: openworkflow.RunPending,
				} {
					row := w.row(s, r.UID)
					switch {
					case row == nil:
						t.Errorf("killed at write %d (%v): %s has no row", n, k.log, r.Name)
					case row.Status != want, row.Attempts != 0, r == suspended && row.SuspendedAt == nil:
						t.Errorf("killed at write %d (%v): row of %s is %s, %d attempts, suspended at %v", n, k.log, r.Name, row.Status, row.Attempts, row.SuspendedAt)
					}
				}
				if got := len(openRuns(t, s)); got != 2*n {
					t.Errorf("killed at write %d (%v): %d open runs, want %d", n, k.log, got, 2*n)
				}
				if survived {
					return
				}
			}
		})
	}
}

func allShown(w *world, plain, canceled, suspended *v1alpha1.WorkflowRun) error {
	for r, want := range map[*v1alpha1.WorkflowRun]string{
		plain: v1alpha1.ReasonPending, canceled: v1alpha1.ReasonCanceled, suspended: v1alpha1.ReasonSuspended,
	} {
		if err := w.Get(context.Background(), client.ObjectKeyFromObject(r), r); err != nil {
			return err
		}
		got := conditionReason(r.Status.Conditions)
		if got != want && got != whilePending(want) || r.Status.ObservedGeneration != r.Generation || r.Status.RunID != string(r.UID) {
			return fmt.Errorf("%s is %q, want %q", r.Name, got, want)
		}
	}
	return nil
}
