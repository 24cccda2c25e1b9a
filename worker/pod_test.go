package worker

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/workflow"
)

var echo = workflow.Define("echo", func(_ context.Context, text string) (string, error) { return text, nil })

// podConfig configures a worker as the manager does in a pod, with a database of its own.
func podConfig(t *testing.T) (Config, *client.Client) {
	t.Helper()
	config := Config{
		PostgresURL: testpg.New(t), PodName: "shop-1", PodNamespace: "orders", PodUID: "uid-1", Pool: "shop",
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	c, err := client.Open(t.Context(), client.Config{PostgresURL: config.PostgresURL, Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return config, c
}

// startWorker runs a worker until the test ends, and checks that it ends without an error.
func startWorker(t *testing.T, work func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- work(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the worker ended with %v", err)
		}
	})
}

// The template of a hardened pod mounts no service account token.
func TestRun_P6_ExecutesInAPodWithoutAToken(t *testing.T) {
	if _, err := os.Stat("/var/run/secrets/kubernetes.io/serviceaccount/token"); err == nil {
		t.Skip("this machine is a pod with a token, which the worker would read: without one, as in CI, this runs")
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "1")
	config, c := podConfig(t)
	startWorker(t, func(ctx context.Context) error { return Run(ctx, config, echo) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	started, err := client.Start(ctx, c, echo, "hello")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := started.Result(ctx); got != "hello" || err != nil {
		t.Fatalf("the run returned %q, %v", got, err)
	}

	database, err := store.Open(ctx, store.Options{URL: config.PostgresURL})
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	workers, err := database.Workers(ctx, time.Minute)
	for err == nil && len(workers) == 0 { // it executes before it announces itself
		<-ticker.C
		workers, err = database.Workers(ctx, time.Minute)
	}
	if err != nil {
		t.Fatal(err)
	}
	if w := workers[0]; w.PodUID != "uid-1" || w.Pool != "shop" || w.PodName != "" {
		t.Errorf("the worker announced %+v: with the name of a pod, the manager waits for its reports", w)
	}
}

// A worker needs the API server only to report, and reports once that answers.
func TestRun_P6_ExecutesBeforeTheAPIServerAnswers(t *testing.T) {
	config, c := podConfig(t)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	// Connections wait in the listener's queue until the server begins.
	connect := func() (*rest.Config, error) { return &rest.Config{Host: "http://" + listener.Addr().String()}, nil }
	startWorker(t, func(ctx context.Context) error { return run(ctx, config, connect, []workflow.Definition{echo}) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	database, err := store.Open(ctx, store.Options{URL: config.PostgresURL})
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	object := openworkflow.RunContext{Kubernetes: &openworkflow.ObjectRef{Namespace: "orders", Name: "order-1", UID: "uid-1", Generation: 1}}
	created, err := database.CreateRuns(ctx, []store.NewRun{{ID: "uid-1", WorkflowName: "echo", Input: json.RawMessage(`"hello"`), Context: object.Encode()}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := client.Attach[string](c, created[0].RunID).Result(ctx); got != "hello" || err != nil {
		t.Fatalf("the run returned %q, %v", got, err)
	}

	reported := make(chan string, 100)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		reported <- r.URL.Path
	}))
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	server.Listener = listener
	server.Start()
	defer server.Close()
	select {
	case path := <-reported:
		if want := "/apis/openworkflow.dev/v1alpha1/namespaces/orders/workflowruns/order-1/status"; path != want {
			t.Errorf("reported to %s, want %s", path, want)
		}
	case <-ctx.Done():
		t.Fatal("the run was not reported")
	}
}

// A pod may be told to stop before its worker has reached the database.
func TestRun_P6_EndsWhileItStarts(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, stop := context.WithCancel(t.Context())
	config := Config{PostgresURL: "postgres://u:p@" + listener.Addr().String() + "/db", Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, config, echo) }()
	connection, err := listener.Accept() // a database that never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = connection.Close() }()
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it did not end")
	}
}
