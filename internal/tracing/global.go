package tracing

import (
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
)

// What OpenTelemetry's globals are until somebody sets them.
var (
	unsetProvider   = otel.GetTracerProvider()
	unsetPropagator = otel.GetTextMapPropagator()
)

// Global returns a tracer at the provider that the application has given to
// OpenTelemetry (otel.SetTracerProvider), and nil when it has given none. It is for
// libraries, which leave the set-up to their application; programs use package otlp.
func Global() *Tracer {
	provider := otel.GetTracerProvider()
	if provider == unsetProvider {
		return nil
	}
	return New(provider, Propagator())
}

// Propagator returns what the application has given to OpenTelemetry, else what
// OTEL_PROPAGATORS says: tracecontext and baggage by default.
func Propagator() propagation.TextMapPropagator {
	if p := otel.GetTextMapPropagator(); p != unsetPropagator {
		return p
	}
	names := os.Getenv("OTEL_PROPAGATORS")
	if names == "" {
		names = "tracecontext,baggage"
	}
	var propagators []propagation.TextMapPropagator
	for name := range strings.SplitSeq(names, ",") {
		switch name = strings.TrimSpace(name); name {
		case "tracecontext":
			propagators = append(propagators, propagation.TraceContext{})
		case "baggage":
			propagators = append(propagators, propagation.Baggage{})
		case "none", "":
		default:
			otel.Handle(fmt.Errorf("OTEL_PROPAGATORS: %q is ignored: tracecontext, baggage and none are known", name))
		}
	}
	return propagation.NewCompositeTextMapPropagator(propagators...)
}
