// Package otlp sends spans to a collector if the environment of the program says so.
//
// It is separate from package tracing because of its size: it links the exporters of
// OpenTelemetry, which are half as large as a worker. Programs use it. The engine and the
// client library, which any application may link, do not.
package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/openworkflow-operator/operator/internal/tracing"
)

// FromEnv returns the tracer of the application (tracing.Global), else one configured by
// OpenTelemetry's environment variables, else nil. The variables turn tracing on if
// OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_EXPORTER=otlp or
// OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set and OTEL_SDK_DISABLED=true is not. The service
// has this name unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES give another.
//
// A provider that FromEnv makes becomes the process's, so that spans of libraries that steps
// call (an instrumented HTTP client, say) are in the step's trace. Shutdown, which is never
// nil, sends the remaining spans. If the collector does not answer, spans are dropped.
func FromEnv(ctx context.Context, service string) (t *tracing.Tracer, shutdown func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	if t := tracing.Global(); t != nil {
		return t, nothing, nil
	}
	if !wanted() {
		return nil, nothing, nil
	}
	exporter, err := newExporter(ctx)
	if err != nil {
		return nil, nothing, fmt.Errorf("set up OpenTelemetry: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		slog.Warn("OpenTelemetry failed", "error", err)
	}))
	about, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", service)),
		resource.WithTelemetrySDK(),
		resource.WithFromEnv(), // comes last, and so takes precedence
	)
	if err != nil { // the resource has what could be read
		otel.Handle(err)
	}
	// The SDK reads the sampler, limits and batch sizes from the environment.
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))
	unset, propagator := otel.GetTracerProvider(), tracing.Propagator()
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagator)
	shutdown = func(ctx context.Context) error {
		if otel.GetTracerProvider() == provider {
			otel.SetTracerProvider(unset)
		}
		return provider.Shutdown(ctx)
	}
	return tracing.New(provider, propagator), shutdown, nil
}

// wanted reports whether the environment turns tracing on.
func wanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	exporters := os.Getenv("OTEL_TRACES_EXPORTER")
	if exporters == "" {
		return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	}
	otlp := false
	for name := range strings.SplitSeq(exporters, ",") {
		switch name = strings.TrimSpace(name); name {
		case "otlp":
			otlp = true
		case "none", "":
		default:
			otel.Handle(fmt.Errorf("OTEL_TRACES_EXPORTER: %q is ignored: otlp and none are known", name))
		}
	}
	return otlp
}

// newExporter returns an exporter for the protocol in the environment. The exporter itself
// reads the endpoint, headers, certificates and timeouts from there.
func newExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	variable := "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	if os.Getenv(variable) == "" {
		variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
	}
	switch protocol := os.Getenv(variable); protocol {
	case "", "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	default:
		return nil, fmt.Errorf("%s is %q: it must be http/protobuf or grpc", variable, protocol)
	}
}
