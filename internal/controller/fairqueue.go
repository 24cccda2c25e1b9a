package controller

import (
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
)

// fairQueue is a priority queue that hands out at most limit requests of one namespace at a
// time, and the requests of several namespaces in turn. So a namespace whose requests take long,
// or are many, delays no other one as long as there are more workers than it may use.
//
//	Add ──> priority queue ──pull──> aside, by namespace and priority ──Get──> busy ──Done──>
//
// A request that is aside counts as in work for the priority queue and its metrics.
type fairQueue[R comparable] struct {
	priorityqueue.PriorityQueue[R]
	namespace func(R) string
	limit     int

	mu      sync.Mutex
	changed *sync.Cond
	tenants map[string]*tenantRequests[R]
	aside   map[R]bool
	// turns has the namespaces that have a request aside and may have one more in work.
	turns    []*tenantRequests[R]
	pulling  bool // one caller of Get waits for the priority queue
	shutdown bool
}

// tenantRequests are those of one namespace.
type tenantRequests[R comparable] struct {
	aside   map[int][]R // by priority, the oldest first
	busy    int
	hasTurn bool
}

// newFairQueue returns the NewQueue option of a controller.
func newFairQueue[R comparable](log logr.Logger, limit int, namespace func(R) string) func(string, workqueue.TypedRateLimiter[R]) workqueue.TypedRateLimitingInterface[R] {
	return func(name string, limiter workqueue.TypedRateLimiter[R]) workqueue.TypedRateLimitingInterface[R] {
		q := &fairQueue[R]{
			PriorityQueue: priorityqueue.New(name, func(o *priorityqueue.Opts[R]) {
				o.Log, o.RateLimiter = log.WithValues("controller", name), limiter
			}),
			namespace: namespace, limit: limit, tenants: map[string]*tenantRequests[R]{}, aside: map[R]bool{},
		}
		q.changed = sync.NewCond(&q.mu)
		return q
	}
}

// Add adds a request unless it is waiting already.
func (q *fairQueue[R]) Add(request R) { q.AddWithOpts(priorityqueue.AddOpts{}, request) }

// AddWithOpts adds those of the requests that are not aside.
func (q *fairQueue[R]) AddWithOpts(o priorityqueue.AddOpts, requests ...R) {
	q.mu.Lock()
	added := make([]R, 0, len(requests))
	for _, r := range requests {
		if !q.aside[r] {
			added = append(added, r)
		}
	}
	q.mu.Unlock()
	q.PriorityQueue.AddWithOpts(o, added...)
}

// Get is GetWithPriority.
func (q *fairQueue[R]) Get() (request R, shutdown bool) {
	request, _, shutdown = q.GetWithPriority()
	return request, shutdown
}

// GetWithPriority waits for a request whose namespace has less than limit of them in work.
func (q *fairQueue[R]) GetWithPriority() (request R, priority int, shutdown bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.shutdown {
		switch {
		case len(q.turns) > 0:
			request, priority = q.take()
			return request, priority, false
		case q.pulling:
			q.changed.Wait()
		default:
			q.pull()
		}
	}
	return request, 0, true
}

// pull puts the next request of the priority queue aside. It waits without the lock. Then
// another caller of Get may pull.
func (q *fairQueue[R]) pull() {
	q.pulling = true
	q.mu.Unlock()
	request, priority, shutdown := q.PriorityQueue.GetWithPriority()
	q.mu.Lock()
	q.pulling = false
	if shutdown {
		q.shutdown = true
		q.changed.Broadcast()
		return
	}
	name := q.namespace(request)
	tenant := q.tenants[name]
	if tenant == nil {
		tenant = &tenantRequests[R]{aside: map[int][]R{}}
		q.tenants[name] = tenant
	}
	tenant.aside[priority] = append(tenant.aside[priority], request)
	q.aside[request] = true
	q.giveTurn(tenant)
	q.changed.Signal()
}

// giveTurn makes a namespace the last one in turn, if it has a request and may have it in work.
func (q *fairQueue[R]) giveTurn(tenant *tenantRequests[R]) {
	if !tenant.hasTurn && len(tenant.aside) > 0 && tenant.busy < q.limit {
		tenant.hasTurn = true
		q.turns = append(q.turns, tenant)
	}
}

// take returns the oldest request of the highest priority of the namespace whose turn it is.
func (q *fairQueue[R]) take() (request R, priority int) {
	tenant := q.turns[0]
	q.turns = q.turns[1:]
	tenant.hasTurn = false
	first := true
	for p := range tenant.aside {
		if first || p > priority {
			priority, first = p, false
		}
	}
	requests := tenant.aside[priority]
	request = requests[0]
	if tenant.aside[priority] = requests[1:]; len(requests) == 1 {
		delete(tenant.aside, priority)
	}
	delete(q.aside, request)
	tenant.busy++
	q.giveTurn(tenant)
	return request, priority
}

// Done ends the work on a request. The caller gets the next one, so nobody has to be woken.
func (q *fairQueue[R]) Done(request R) {
	q.PriorityQueue.Done(request)
	q.mu.Lock()
	defer q.mu.Unlock()
	name := q.namespace(request)
	tenant := q.tenants[name]
	tenant.busy--
	q.giveTurn(tenant)
	if tenant.busy == 0 && len(tenant.aside) == 0 {
		delete(q.tenants, name)
	}
}

// Len returns how many requests wait.
func (q *fairQueue[R]) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.PriorityQueue.Len() + len(q.aside)
}
