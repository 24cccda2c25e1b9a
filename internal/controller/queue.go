package controller

import (
	"context"

	"github.com/go-logr/logr"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
)

// typedEvents adds to a queue the requests that the change of an object calls for. Before
// is nil for a created object, after for a deleted one. The objects that exist when the
// manager starts have a lower priority than later ones.
func typedEvents[T client.Object, R comparable](requests func(before, after T) []R) handler.TypedEventHandler[T, R] {
	type queue = workqueue.TypedRateLimitingInterface[R]
	var none T
	add := func(q queue, before, after T) {
		for _, request := range requests(before, after) {
			q.Add(request)
		}
	}
	return handler.TypedFuncs[T, R]{
		CreateFunc: func(_ context.Context, e event.TypedCreateEvent[T], q queue) { add(q, none, e.Object) },
		UpdateFunc: func(_ context.Context, e event.TypedUpdateEvent[T], q queue) { add(q, e.ObjectOld, e.ObjectNew) },
		DeleteFunc: func(_ context.Context, e event.TypedDeleteEvent[T], q queue) { add(q, e.Object, none) },
	}
}

// addLowPriority adds a request that is handled after all of normal priority.
func addLowPriority[R comparable](queue workqueue.TypedRateLimitingInterface[R], request R) {
	if ordered, ok := queue.(priorityqueue.PriorityQueue[R]); ok {
		ordered.AddWithOpts(priorityqueue.AddOpts{Priority: new(handler.LowPriority)}, request)
		return
	}
	queue.Add(request)
}

// logFor returns the logger of a controller's requests, with these values of a request.
func logFor[R comparable](mgr ctrl.Manager, name string, values func(R) []any) func(*R) logr.Logger {
	log := mgr.GetLogger().WithValues("controller", name)
	return func(request *R) logr.Logger {
		if request == nil {
			return log
		}
		return log.WithValues(values(*request)...)
	}
}
