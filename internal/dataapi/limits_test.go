package dataapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/rest"

	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/internal/testpg/hostile"
)

// discard reads the answer of a request without keeping it.
func discard(ctx context.Context, request *rest.Request) (n int64, err error) {
	body, err := request.Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	return io.Copy(io.Discard, body)
}

// Whoever writes rows may write megabytes into each, and give a namespace several Backends for them.
// However many lists are asked for at once, they keep a bounded amount of it.
func TestRuns_P9_ListsAreBoundedInMemory(t *testing.T) {
	w := setupAlone(t)
	const backends, lists, limit = 4, 16, 96 << 20
	for i := range backends - 1 {
		w.backend(fmt.Sprintf("twin-%d", i), w.url)
	}
	w.exec(`INSERT INTO openworkflow.workflow_runs
		(namespace_id, id, workflow_name, status, config, context, idempotency_key, attempts, created_at, updated_at)
	SELECT $1::text, 'r-' || lpad(i::text, 4, '0'), 'w', 'completed', '{}',
		jsonb_build_object('junk', repeat('x', 12000), 'kubernetes', jsonb_build_object('cluster', $2::text, 'namespace', $1::text, 'name', 'o-' || i)),
		NULL, 1, timestamptz '2026-01-01' + i * interval '1 s', now()
	FROM generate_series(1, 1001) i`, w.namespace, clusterUID)
	w.exec(`INSERT INTO openworkflow.step_attempts (namespace_id, id, workflow_run_id, step_name, kind, status, config, context, created_at, updated_at)
	SELECT $1, 's-' || i, 'r-0001', 'step', 'function', 'completed', '{}', jsonb_build_object('junk', repeat('x', 12000)), now(), now()
	FROM generate_series(1, 1001) i`, w.namespace)
	c := w.user()
	for _, path := range []string{"runs", "runs/r-0001/steps"} {
		t.Run(path, func(t *testing.T) {
			growth := hostile.HeapGrowth(func() {
				var asked sync.WaitGroup
				for range lists {
					asked.Go(func() {
						n, err := discard(t.Context(), c.Get().Namespace(w.namespace).Suffix(strings.Split(path, "/")...).Param("limit", "1000"))
						if err != nil || n < 100_000 {
							t.Errorf("the answer has %d bytes, %v", n, err)
						}
					})
				}
				asked.Wait()
			})
			t.Logf("the heap grew by %d MiB", growth>>20)
			if growth > limit {
				t.Errorf("the heap grew by %d MiB, want at most %d", growth>>20, limit>>20)
			}
		})
	}
	if _, list := w.list(c, map[string]string{"limit": "1"}); list.Items[0].Status.Object != "o-1001" {
		t.Errorf("the first run is %+v", list.Items[0])
	}
}

// await waits until a request of the namespace has a place.
func (l *limiter) await(t *testing.T, namespace string) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.of[namespace] > 0, nil
	}); err != nil {
		t.Fatalf("no request has a place: %v", err)
	}
}

// Texts of any length are shown up to a bound, and a page of long ones ends early.
func TestRuns_P9_LongTextsMakeShortPages(t *testing.T) {
	w := setup(t)
	w.exec(`INSERT INTO openworkflow.workflow_runs
		(namespace_id, id, workflow_name, version, status, worker_id, config, attempts, created_at, updated_at)
	SELECT $1, repeat('i', 10000) || i, repeat('w', 20000), 'v', 'completed', repeat('p', 20000),
		jsonb_build_object('openworkflow.dev/forkStep', repeat('f', 500000)), 1, timestamptz '2026-01-01' + i * interval '1 s', now()
	FROM generate_series(100, 499) i`, w.namespace)
	c := w.user()
	seen, pages, params := map[string]bool{}, 0, map[string]string{"limit": "1000"}
	for {
		ids, list := w.list(c, params)
		pages++
		for i, id := range ids {
			run := &list.Items[i]
			if seen[id] || len(run.Spec.WorkflowName) != 1100 || len(run.Status.ForkStep) != 1100 || len(run.Status.Worker) != 1100 {
				t.Fatalf("run %.20q… has %d, %d and %d bytes, seen %v", id, len(run.Spec.WorkflowName), len(run.Status.ForkStep), len(run.Status.Worker), seen[id])
			}
			seen[id] = true
		}
		if params["continue"] = list.Continue; list.Continue == "" {
			break
		}
	}
	if len(seen) != 400 || pages < 2 || pages > 10 {
		t.Errorf("%d runs in %d pages", len(seen), pages)
	}
}

// A database that hangs delays the requests of its own namespace.
func TestApprovals_P9_AHangingDatabaseDelaysNoOtherNamespace(t *testing.T) {
	slow, other := setup(t), setupAlone(t)
	slow.asks("run-1")
	link := testpg.NewLink(t, slow.url)
	slow.backend("slow", link.URL)
	other.asks("run-1")
	user := slow.user()
	slow.mustApprovals(user) // opens the databases
	link.Blackhole()

	ctx, cancel := context.WithCancel(t.Context())
	var asked sync.WaitGroup
	defer asked.Wait()
	defer cancel()
	ended := make(chan error, 6)
	for range cap(ended) {
		asked.Go(func() {
			ended <- user.Get().Namespace(slow.namespace).Resource("approvals").MaxRetries(0).Do(ctx).Error()
		})
	}
	payloadReads.await(t, slow.namespace)
	began := time.Now()
	c := other.user()
	for _, subresource := range []string{"payload", "history"} {
		if _, err := discard(ctx, c.Get().Namespace(other.namespace).Resource("runs").Name("run-1").SubResource(subresource)); err != nil {
			t.Errorf("%s of the other namespace: %v", subresource, err)
		}
	}
	other.mustApprovals(c)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the other namespace waited %v", took)
	}
	if err := <-ended; !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), `the database of Backend "slow" did not answer within 5s`) {
		t.Errorf("its own request: %v", err)
	}
}

func TestLimiter_P9_NoNamespaceTakesAll(t *testing.T) {
	t.Parallel()
	l := newLimiter(3, 2)
	type holder struct {
		release func()
		err     error
	}
	ask := func(ctx context.Context, namespace string, n int64) chan holder {
		got := make(chan holder, 1)
		l.mu.Lock()
		before := len(l.waiting)
		l.mu.Unlock()
		go func() {
			release, err := l.acquire(ctx, namespace, n)
			got <- holder{release, err}
		}()
		for { // until it has what it asks for, or waits
			l.mu.Lock()
			waits := len(l.waiting) > before
			l.mu.Unlock()
			if waits || len(got) > 0 {
				return got
			}
			runtime.Gosched()
		}
	}
	first, second := <-ask(t.Context(), "a", 1), <-ask(t.Context(), "a", 1)
	third := ask(t.Context(), "a", 1)
	if len(third) > 0 {
		t.Error("a has three")
	}
	other := <-ask(t.Context(), "b", 1) // does not wait for a
	large := ask(t.Context(), "c", 100) // counts as 2, all that a namespace may have
	small := ask(t.Context(), "d", 1)
	first.release()
	first.release()
	if h := <-third; h.err != nil || len(large)+len(small) > 0 {
		t.Errorf("the first one that waited was not next: %v", h.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	given := ask(ctx, "e", 1)
	cancel()
	if h := <-given; !errors.Is(h.err, context.Canceled) {
		t.Errorf("after the end of its context: %v", h.err)
	}
	second.release()
	if len(large)+len(small) > 0 {
		t.Error("a small one has passed the large one")
	}
	other.release()
	if h := <-large; h.err != nil {
		t.Error(h.err)
	} else {
		h.release()
	}
	(<-small).release()
}

// A namespace whose requests do not end keeps the others' from nothing.
func TestServer_P9_RequestsOfANamespaceAreLimited(t *testing.T) {
	t.Parallel()
	release, inside := make(chan struct{}), make(chan struct{})
	_, codecs := newScheme()
	handler := limitRequests(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside <- struct{}{}
		<-release
	}), codecs)
	serve := func(namespace string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		info := &genericapirequest.RequestInfo{IsResourceRequest: true, Namespace: namespace, Resource: "runs", Verb: "list"}
		r := httptest.NewRequestWithContext(genericapirequest.WithRequestInfo(t.Context(), info), http.MethodGet, "/", nil)
		handler.ServeHTTP(w, r)
		return w
	}
	var under sync.WaitGroup
	for range maxRequests {
		under.Go(func() { serve("a") })
		<-inside
	}
	if w := serve("a"); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "too many requests of this namespace are being handled") {
		t.Errorf("one more: %d %v %s", w.Code, w.Header(), w.Body)
	}
	under.Go(func() { serve("b") })
	<-inside
	close(release)
	under.Wait()
	under.Go(func() { serve("a") })
	<-inside
	under.Wait()
}
