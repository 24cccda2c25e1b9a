package otlp_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/openworkflow-operator/operator/internal/tracing"
	"github.com/openworkflow-operator/operator/internal/tracing/otlp"
)

var unsetPropagator = otel.GetTextMapPropagator()

// The tests below set the process's environment and OpenTelemetry's globals, so they
// are not parallel.

func TestOffUnlessTheEnvironmentAsksForIt(t *testing.T) {
	for _, test := range []struct {
		intent string
		env    map[string]string
		on     bool
	}{
		{"nothing is set", nil, false},
		{"an endpoint", map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, true},
		{"an endpoint for traces", map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, true},
		{"an exporter", map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, true},
		{"no exporter", map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, false},
		{"an unknown exporter", map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, false},
		{"a known and an unknown exporter", map[string]string{"OTEL_TRACES_EXPORTER": "console, otlp"}, true},
		{"disabled", map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, false},
		{"grpc", map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}, true},
		{"malformed attributes", map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_RESOURCE_ATTRIBUTES": "="}, true},
	} {
		t.Run(test.intent, func(t *testing.T) {
			tracer := fromEnv(t, test.env)
			if on := tracer != nil; on != test.on {
				t.Errorf("tracing is on: %v, want %v", on, test.on)
			}
		})
	}
}

func TestUnknownProtocolIsAnError(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_TRACES_EXPORTER", "otlp")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
	tracer, shutdown, err := otlp.FromEnv(t.Context(), "worker")
	if tracer != nil || err == nil || !strings.Contains(err.Error(), `OTEL_EXPORTER_OTLP_PROTOCOL is "http/json"`) {
		t.Errorf("got %v and error %v, want an error that names the variable", tracer, err)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Errorf("shutdown of nothing failed: %v", err)
	}
}

// Spans arrive at the collector, those of the application's own code too.
func TestSpansAreExportedOverHTTP(t *testing.T) {
	bodies := make(chan string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Authorization") != "token" {
			t.Errorf("request for %s with %v: %v", r.URL.Path, r.Header, err)
		}
		bodies <- string(body)
	}))
	defer collector.Close()
	clearEnv(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=token")
	tracer, shutdown, err := otlp.FromEnv(t.Context(), "the-service")
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := tracer.StartCancel(t.Context(), "shop", "run-1")
	_, own := otel.Tracer("application").Start(ctx, "the-applications-own")
	own.End()
	span.End("", nil)
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	body := <-bodies
	for _, want := range []string{"the-service", "workflow_run.cancel", "the-applications-own"} {
		if !strings.Contains(body, want) {
			t.Errorf("the collector got nothing of %q", want)
		}
	}
	if tracing.Global() != nil {
		t.Error("the provider is still the process's after its shutdown")
	}
}

func TestSpansAreExportedOverGRPC(t *testing.T) {
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	preface := make(chan string, 1)
	go func() {
		connection, err := listener.Accept()
		if err != nil {
			return
		}
		defer connection.Close()
		first := make([]byte, len("PRI * HTTP/2.0"))
		_, _ = io.ReadFull(connection, first)
		preface <- string(first)
	}()
	clearEnv(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+listener.Addr().String())
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
	tracer, shutdown, err := otlp.FromEnv(t.Context(), "worker")
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.StartCancel(t.Context(), "shop", "run-1")
	span.End("", nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = shutdown(ctx) // what listens is no collector
	}()
	defer func() { <-done }()
	defer cancel()
	select {
	case got := <-preface:
		if got != "PRI * HTTP/2.0" {
			t.Errorf("the exporter began with %q, want HTTP/2", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("the exporter did not connect")
	}
}

func TestServiceNameOfTheEnvironmentWins(t *testing.T) {
	bodies := make(chan string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
	}))
	defer collector.Close()
	clearEnv(t)
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", collector.URL)
	t.Setenv("OTEL_SERVICE_NAME", "chosen-name")
	tracer, shutdown, err := otlp.FromEnv(t.Context(), "default-name")
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracer.StartCancel(t.Context(), "shop", "run-1")
	span.End("", nil)
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if body := <-bodies; !strings.Contains(body, "chosen-name") || strings.Contains(body, "default-name") {
		t.Errorf("the service is not named as the environment says: %q", body)
	}
}

func TestSamplerOfTheEnvironment(t *testing.T) {
	tracer := fromEnv(t, map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER": "always_off"})
	ctx, span := tracer.StartCancel(t.Context(), "shop", "run-1")
	span.End("", nil)
	if parent := tracer.Carrier(ctx)["traceparent"]; !strings.HasSuffix(parent, "-00") {
		t.Errorf("traceparent is %q, want one that is not sampled", parent)
	}
}

// An application that has set OpenTelemetry up itself is traced by what it has set up,
// whatever the environment says.
func TestTheApplicationsProviderIsUsed(t *testing.T) {
	clearEnv(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	otel.SetTracerProvider(provider)
	defer provider.Shutdown(context.Background()) //nolint:errcheck // it keeps spans in memory
	tracer, shutdown, err := otlp.FromEnv(t.Context(), "worker")
	if err != nil {
		t.Fatal(err)
	}
	if err := shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, span := tracer.StartCancel(t.Context(), "shop", "run-1")
	span.End("", nil)
	if n := len(exporter.GetSpans()); n != 1 {
		t.Errorf("the application's exporter got %d spans, want 1; its provider must not be shut down", n)
	}
}

// fromEnv sets these variables and no others, and returns the tracer that they make.
func fromEnv(t *testing.T, env map[string]string) *tracing.Tracer {
	t.Helper()
	clearEnv(t)
	for name, value := range env {
		t.Setenv(name, value)
	}
	tracer, shutdown, err := otlp.FromEnv(t.Context(), "worker")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel() // no collector is listening
		_ = shutdown(ended)
	})
	return tracer
}

func clearEnv(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS", "OTEL_SERVICE_NAME",
		"OTEL_RESOURCE_ATTRIBUTES", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
		"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_HEADERS",
	} {
		t.Setenv(name, "")
	}
	before := otel.GetTracerProvider()
	t.Cleanup(func() {
		if otel.GetTracerProvider() != before {
			otel.SetTracerProvider(before)
		}
		if otel.GetTextMapPropagator() != unsetPropagator {
			otel.SetTextMapPropagator(unsetPropagator)
		}
	})
}
