package dataapi

import (
	"context"
	"net/http"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// What requests may use at a time, in all and of a namespace. No namespace gets all of anything, so
// that whoever makes its requests slow or large delays and fills nothing of the others.
var (
	// pageReads has a place for each list that is being read, which keeps a few pages of maxPage.
	pageReads = newLimiter(16, 2)
	// payloadReads has a place for each answer with payloads that is being read.
	payloadReads = newLimiter(3, 1)
	// archiveReads has a place for each archive that is being read: a row of it may be large. It is not
	// that of payloads, whose holder may read an archive.
	archiveReads = newLimiter(4, 1)
	// answers counts the bytes of answers from when they are read until they are sent: a client may be
	// slow, and an answer is encoded into memory.
	answers = newLimiter(48<<20, 24<<20)
)

// maxRequests is how many requests of a namespace are handled at a time. The server handles 400 that
// read and 200 that write, of all namespaces.
const maxRequests = 100

// limiter bounds what is used at a time, in all and of each namespace. Who waits is served in turn,
// but nobody waits for another namespace that has used up its own part. Its methods may be called
// concurrently.
type limiter struct {
	total, each int64

	mu      sync.Mutex
	used    int64
	of      map[string]int64
	waiting []*waiter
}

// waiter waits until it has n.
type waiter struct {
	namespace string
	n         int64
	ready     chan struct{}
}

func newLimiter(total, each int64) *limiter {
	return &limiter{total: total, each: each, of: map[string]int64{}}
}

// acquire waits until n are free for the namespace or ctx ends. Of more than a namespace may have, it
// takes as many. The caller calls release once it needs them no longer; it may do so again.
func (l *limiter) acquire(ctx context.Context, namespace string, n int64) (release func(), err error) {
	w := &waiter{namespace: namespace, n: min(n, l.each), ready: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, w)
	l.admitLocked()
	l.mu.Unlock()
	release = sync.OnceFunc(func() { l.release(w) })
	select {
	case <-w.ready:
		return release, nil
	case <-ctx.Done():
		release()
		return nil, ctx.Err()
	}
}

// tryAcquire is acquire for one, and returns nil where that would wait.
func (l *limiter) tryAcquire(namespace string) (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used == l.total || l.of[namespace] == l.each {
		return nil
	}
	l.takeLocked(namespace, 1)
	return func() { l.release(&waiter{namespace: namespace, n: 1}) }
}

func (l *limiter) takeLocked(namespace string, n int64) {
	l.used += n
	l.of[namespace] += n
}

// release gives back what a waiter has, or ends its waiting.
func (l *limiter) release(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.waiting, w); i >= 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	} else {
		l.takeLocked(w.namespace, -w.n)
		if l.of[w.namespace] == 0 {
			delete(l.of, w.namespace)
		}
	}
	l.admitLocked()
}

// admitLocked gives those who wait what is free, in their order. The first one that there is not enough
// for in all keeps those behind it waiting, so that many small ones do not hold up a large one.
func (l *limiter) admitLocked() {
	for i := 0; i < len(l.waiting); {
		w := l.waiting[i]
		if l.of[w.namespace]+w.n > l.each {
			i++
			continue
		}
		if l.used+w.n > l.total {
			return
		}
		l.waiting = slices.Delete(l.waiting, i, i+1)
		l.takeLocked(w.namespace, w.n)
		close(w.ready)
	}
}

// within calls f with a place for the request's namespace.
func (l *limiter) within(ctx context.Context, f func() error) error {
	release, err := l.acquire(ctx, genericapirequest.NamespaceValue(ctx), 1)
	if err != nil {
		return err
	}
	defer release()
	return f()
}

// reserveAnswer waits until an answer with so many bytes of texts may be kept. They are given back when
// the request ends, which is once its answer is sent. The caller still has the place with which it has
// read them, so that what waits here is bounded too.
func reserveAnswer(ctx context.Context, bytes int) error {
	release, err := answers.acquire(ctx, genericapirequest.NamespaceValue(ctx), int64(bytes))
	if err == nil {
		context.AfterFunc(ctx, release)
	}
	return err
}

// limitRequests refuses requests of a namespace that has maxRequests under way. Otherwise one whose
// database hangs would take all that the server handles.
func limitRequests(next http.Handler, serializer runtime.NegotiatedSerializer) http.Handler {
	requests := newLimiter(1<<30, maxRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, ok := genericapirequest.RequestInfoFrom(r.Context())
		if !ok || !info.IsResourceRequest || info.Namespace == "" {
			next.ServeHTTP(w, r)
			return
		}
		release := requests.tryAcquire(info.Namespace)
		if release == nil {
			w.Header().Set("Retry-After", "1")
			responsewriters.ErrorNegotiated(apierrors.NewTooManyRequests(
				"too many requests of this namespace are being handled: some of its databases may be slow, see diagnoses", 1),
				serializer, schema.GroupVersion(datav1alpha1.GroupVersion), w, r)
			return
		}
		defer release()
		next.ServeHTTP(w, r)
	})
}
