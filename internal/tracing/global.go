package tracing

import (
	"fmt"
	"os"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
)

// The values of OpenTelemetry's globals before anything sets them.
var (
	unsetProvider   = otel.GetTracerProvider()
	unsetPropagator = otel.GetTextMapPropagator()
)

// Global returns a tracer that uses the provider that the application has set
// (otel.SetTracerProvider), or nil if it has set none. It is for libraries, whose application
// sets tracing up; programs use package otlp.
func Global() *Tracer {
	provider := otel.GetTracerProvider()
	if provider == unsetProvider {
		return nil
	}
	return New(provider, Propagator())
}

// Propagator returns the propagator that the application has set, else those in
// OTEL_PROPAGATORS: tracecontext and baggage by default.
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
