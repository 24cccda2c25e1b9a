package controller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
)

// newTestQueue returns a queue of two requests per namespace at a time, and a function that
// gets requests from it as a worker does.
func newTestQueue(t *testing.T) (queue *fairQueue[leaseRequest], get func() string) {
	t.Helper()
	made := newFairQueue(logr.Discard(), 2, func(r leaseRequest) string { return r.Namespace })(
		"test", workqueue.DefaultTypedControllerRateLimiter[leaseRequest]())
	queue, ok := made.(*fairQueue[leaseRequest])
	if !ok {
		t.Fatalf("the queue is a %T", made)
	}
	t.Cleanup(queue.ShutDown)
	got := make(chan leaseRequest, 100)
	return queue, func() string {
		go func() {
			if request, _, shutdown := queue.GetWithPriority(); !shutdown {
				got <- request
			}
		}()
		select {
		case request := <-got:
			return request.Namespace + request.Pod
		case <-time.After(20 * time.Second):
			t.Fatal("no request")
			return ""
		}
	}
}

func TestFairQueue_P9_ABusyNamespaceLeavesWorkersToOthers(t *testing.T) {
	t.Parallel()
	queue, get := newTestQueue(t)
	of := func(namespace string, n int) leaseRequest {
		return leaseRequest{Namespace: namespace, Pod: fmt.Sprint(n)}
	}
	for n := range 50 {
		queue.Add(of("a", n))
	}
	for n := range 3 {
		queue.Add(of("b", n))
	}
	var got []string
	for range 4 {
		got = append(got, get())
	}
	slices.Sort(got)
	if want := []string{"a0", "a1", "b0", "b1"}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	queue.Add(of("c", 0))
	if next := get(); next != "c0" { // two of a and of b are in work
		t.Errorf("got %s, want c0", next)
	}
	queue.Done(of("b", 0))
	if next := get(); next != "b2" {
		t.Errorf("got %s, want b2", next)
	}
	queue.Done(of("a", 0))
	queue.Done(of("a", 1))
	for n := 2; n < 50; n++ {
		if next := get(); next != fmt.Sprint("a", n) {
			t.Fatalf("got %s, want a%d", next, n)
		}
		queue.Done(of("a", n))
	}
}

func TestFairQueue_KeepsPrioritiesAndEachRequestOnce(t *testing.T) {
	t.Parallel()
	queue, get := newTestQueue(t)
	of := func(pod string) leaseRequest { return leaseRequest{Namespace: "a", Pod: pod} }
	add := func(priority int, pod string) {
		queue.AddWithOpts(priorityqueue.AddOpts{Priority: new(priority)}, of(pod))
	}
	const low, lowest = -100, -200
	for n := range 4 {
		add(low, fmt.Sprint("old", n))
	}
	first, second := get(), get()
	pullAll := func(namespace string) { // its request is pulled after all others
		queue.AddWithOpts(priorityqueue.AddOpts{Priority: new(lowest)}, leaseRequest{Namespace: namespace})
		if next := get(); next != namespace {
			t.Fatalf("got %s, want %s", next, namespace)
		}
	}
	pullAll("b")
	add(low, "old3") // is aside already
	add(0, "new")
	pullAll("c")
	last := []string{first, second}
	for _, want := range []string{"anew", "aold2", "aold3"} {
		queue.Done(of(last[0][1:]))
		next := get()
		if next != want {
			t.Fatalf("got %s, want %s", next, want)
		}
		last = append(last[1:], next)
	}
	if n := queue.Len(); n != 0 {
		t.Errorf("%d requests wait, want none", n)
	}
}
