package controller

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clocktesting "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// shippedLeader returns a user with the shipped leader election role and nothing else.
func shippedLeader(t *testing.T, w *world, name string) *rest.Config {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "openworkflow-system"}}
	if err := w.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	if err := createAll(t.Context(), w.Client, filepath.Join(repository, "config/rbac/leader_election_role.yaml")); err != nil {
		t.Fatal(err)
	}
	user, err := addUser(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "openworkflow-leader-election"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}},
	}); err != nil {
		t.Fatal(err)
	}
	return user.Config()
}

// The lease's name is derived from --namespace-selector.
func TestManager_P9_LeadsWithTheShippedRolesUnderAnyLeaseName(t *testing.T) {
	w := newWorld(t)
	config := shippedLeader(t, w, "leader")
	for _, lease := range []string{"manager.openworkflow.dev", "3d8dfb268d.manager.openworkflow.dev"} {
		mgr, err := ctrl.NewManager(config, ctrl.Options{
			Scheme: cluster.scheme, Metrics: metricsserver.Options{BindAddress: "0"}, LeaderElection: true,
			LeaderElectionID: lease, LeaderElectionNamespace: "openworkflow-system", LeaderElectionReleaseOnCancel: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- mgr.Start(ctx) }()
		select {
		case <-mgr.Elected():
		case err := <-done:
			t.Fatalf("the manager ended: %v", err)
		case <-time.After(30 * time.Second):
			t.Errorf("no leader under %s", lease)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestReadiness_SaysThatAManagerCannotLead(t *testing.T) {
	w := newWorld(t)
	user, err := addUser("nobody")
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := client.New(user.Config(), client.Options{Scheme: cluster.scheme})
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		live   client.Reader
		synced bool
		want   string // a part of the error, empty for none
	}{
		"allowed":    {w.Client, true, ""},
		"forbidden":  {nobody, true, "read the leader's lease"},
		"not synced": {w.Client, false, "the caches have not listed all objects"},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clocktesting.NewFakeClock(noon)
			r := &Readiness{Live: test.live, Lease: types.NamespacedName{Namespace: w.Namespace, Name: "lease"}, Clock: clock}
			r.good, r.synced = noon, test.synced
			r.observe(r.readLease(t.Context()))
			if err := r.Check(nil); err != nil {
				t.Errorf("not ready at once: %v", err)
			}
			clock.Step(readinessPatience + time.Second)
			r.observe(r.readLease(t.Context()))
			err := r.Check(nil)
			if (err != nil) != (test.want != "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want %q", err, test.want)
			}
		})
	}
}

// What waits for a rollout must not go on before the manager can work.
func TestReadiness_IsNotReadyBeforeTheFirstList(t *testing.T) {
	w := newWorld(t)
	listed := make(chan struct{})
	r := &Readiness{
		Live: w.Client, Lease: types.NamespacedName{Namespace: w.Namespace, Name: "lease"}, Clock: clocktesting.NewFakeClock(noon),
		Synced: func(ctx context.Context) bool {
			select {
			case <-listed:
				return true
			case <-ctx.Done():
				return false
			}
		},
	}
	if err := r.Check(nil); err == nil {
		t.Error("ready before the start")
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Start(ctx) }()
	r.observe(r.readLease(t.Context()))
	if err := r.Check(nil); err == nil || !strings.Contains(err.Error(), "have not listed all objects") {
		t.Errorf("before the first list: %v", err)
	}
	close(listed)
	eventually(t, func() error { return r.Check(nil) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
