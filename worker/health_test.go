package worker_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/openworkflow-operator/operator/client"
	"github.com/openworkflow-operator/operator/worker"
)

// TestHealth_P9_NoCallerStopsAWorker calls everything that a stranger may try on the health
// port, and has the worker execute a run after that.
func TestHealth_P9_NoCallerStopsAWorker(t *testing.T) {
	config, err := worker.ConfigFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	config.NamespaceID = "health"
	config.HealthAddress = freeAddress(t)
	config.Logger = slog.New(slog.DiscardHandler)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(ctx, config, greet) }()
	awaitReady(t, config.HealthAddress)

	for _, path := range []string{"/drain", "/stop", "/shutdown", "/quitquitquit", "/debug/pprof/cmdline", "/metrics", "/"} {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			if code, body := call(t, method, "http://"+config.HealthAddress+path); code != http.StatusNotFound {
				t.Errorf("%s %s answers %d: %s", method, path, code, body)
			}
		}
	}

	c, err := client.Open(ctx, client.Config{PostgresURL: config.PostgresURL, NamespaceID: config.NamespaceID})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run, err := client.Start(ctx, c, greet, "ada")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := run.Result(ctx); err != nil || got != "hello, ada" {
		t.Errorf("the run returned %q, %v", got, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// awaitReady waits until the worker answers that it is ready.
func awaitReady(t *testing.T, address string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/readyz", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
			err = fmt.Errorf("/readyz answers %s", response.Status)
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// call sends a request and returns the answer's status and body. It fails the test if
// no answer comes.
func call(t *testing.T, method, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// freeAddress returns a loopback address that nothing listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}
