package controller

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

func TestInNamespaces_FollowsALabel(t *testing.T) {
	w := newWorld(t)
	label := map[string]string{"shard": w.Namespace}
	namespace := func(name string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.Namespace + name, Labels: label}}
	}
	calls := make(chan []string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- InNamespaces(ctx, cluster.manager, labels.SelectorFromSet(label), func(ctx context.Context, namespaces []string) error {
			calls <- namespaces
			<-ctx.Done()
			return nil
		})
	}()
	expect := func(want ...string) {
		t.Helper()
		for i := range want {
			want[i] = w.Namespace + want[i]
		}
		select {
		case got := <-calls:
			if !slices.Equal(got, want) {
				t.Fatalf("namespaces are %v, want %v", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("no call with %v", want)
		}
	}
	b := namespace("-b")
	expect()
	w.create(b)
	expect("-b")
	w.create(namespace("-a"))
	expect("-a", "-b")
	modify(w, b, func(n *corev1.Namespace) { n.Labels = nil })
	expect("-a")
	cancel()
	if err := <-done; err != nil {
		t.Errorf("InNamespaces has error %v", err)
	}
	if len(calls) > 0 {
		t.Errorf("one more call, with %v", <-calls)
	}
}

func TestInNamespaces_ReturnsAFailure(t *testing.T) {
	w := newWorld(t)
	failure := errors.New("no lease")
	selector := labels.SelectorFromSet(map[string]string{"kubernetes.io/metadata.name": w.Namespace})
	err := InNamespaces(t.Context(), cluster.manager, selector, func(context.Context, []string) error { return failure })
	if !errors.Is(err, failure) {
		t.Errorf("error is %v, want %v", err, failure)
	}
}
