package tracing_test

import (
	"testing"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/openworkflow-operator/operator/internal/tracing"
)

// The tests below set the process's environment and OpenTelemetry's globals, so they
// are not parallel.

func TestGlobalIsOffUntilTheApplicationSetsAProvider(t *testing.T) {
	if tracing.Global() != nil {
		t.Error("a tracer without a provider")
	}
	setGlobal(t)
	if tracing.Global() == nil {
		t.Error("no tracer although there is a provider")
	}
}

func TestPropagatorsOfTheEnvironment(t *testing.T) {
	for _, test := range []struct {
		propagators          string
		trace, baggageMember bool
	}{
		{"", true, true},
		{"tracecontext", true, false},
		{"baggage", false, true},
		{"none", false, false},
		{"tracecontext,baggage,b3", true, true}, // what is unknown is ignored
	} {
		t.Run(test.propagators, func(t *testing.T) {
			t.Setenv("OTEL_PROPAGATORS", test.propagators)
			setGlobal(t)
			tracer := tracing.Global()
			ctx, err := withBaggage(t.Context(), "tenant", "acme")
			if err != nil {
				t.Fatal(err)
			}
			ctx, span := tracer.StartCancel(ctx, "shop", "run-1")
			defer span.End("", nil)
			carrier := tracer.Carrier(ctx)
			if (carrier["traceparent"] != "") != test.trace || (carrier["baggage"] != "") != test.baggageMember {
				t.Errorf("carrier is %v", carrier)
			}
		})
	}
}

// setGlobal gives OpenTelemetry a provider for the length of the test.
func setGlobal(t *testing.T) {
	t.Helper()
	before := otel.GetTracerProvider()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(tracetest.NewInMemoryExporter())))
	t.Cleanup(func() { otel.SetTracerProvider(before) })
}
