package tracing_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/tracing"
)

// R160, R161: the run that a client creates, and the child of that run, have traces of their own,
// linked to their creations, with the client's baggage.
func TestTraceGoesFromClientToRunToChild(t *testing.T) {
	t.Parallel()
	tracer, ended := record(t)
	ctx, err := withBaggage(t.Context(), "tenant", "acme")
	if err != nil {
		t.Fatal(err)
	}

	created, creation := tracer.StartCreate(ctx, tracing.Creation{
		Workflow: openworkflow.Definition{Name: "order"}, NamespaceID: "shop", RunID: "run-1",
	})
	run := row("run-1", "order", tracer.Carrier(created))
	creation.End("", nil)

	passCtx, pass := tracer.StartPass(t.Context(), run)
	childCtx, childCreation := tracer.StartCreate(passCtx, tracing.Creation{
		Workflow: openworkflow.Definition{Name: "parcel"}, NamespaceID: "shop", RunID: "run-2", ParentRunID: "run-1",
	})
	child := row("run-2", "parcel", tracer.Carrier(childCtx))
	childCreation.End("", nil)
	pass.End(tracing.Suspended, nil)

	childPassCtx, childPass := tracer.StartPass(t.Context(), child)
	childPass.End(tracing.Completed, nil)

	spans := ended()
	if len(spans) != 4 {
		t.Fatalf("%d spans ended, want 4: %v", len(spans), names(spans))
	}
	client, childCreated, first, second := spans[0], spans[1], spans[2], spans[3]
	for _, link := range []struct {
		pass, creation tracetest.SpanStub
	}{{first, client}, {second, childCreated}} {
		switch {
		case link.pass.Parent.IsValid():
			t.Errorf("the pass of %v is the child of another span", link.pass.Attributes)
		case link.pass.SpanContext.TraceID() == link.creation.SpanContext.TraceID():
			t.Errorf("the pass of %v is in the trace of its creator", link.pass.Attributes)
		case len(link.pass.Links) != 1 || link.pass.Links[0].SpanContext.SpanID() != link.creation.SpanContext.SpanID():
			t.Errorf("the pass of %v is linked to %v, want its creation", link.pass.Attributes, link.pass.Links)
		}
	}
	if childCreated.Parent.SpanID() != first.SpanContext.SpanID() {
		t.Error("the child's creation is not within the parent's pass")
	}
	if got := baggage.FromContext(childPassCtx).Member("tenant").Value(); got != "acme" {
		t.Errorf("the child's baggage has tenant %q, want acme", got)
	}
}

// R160: what a TypeScript client stores is understood, as in the rows of OpenWorkflow 0.10.1.
func TestCarrierIsW3C(t *testing.T) {
	t.Parallel()
	tracer, ended := record(t)
	const parent = "00-afb86b3816cb298a595d69c065ce0254-4fe2c8f77c0f7187-01"
	_, pass := tracer.StartPass(t.Context(), row("run", "tparent", map[string]string{"traceparent": parent}))
	pass.End(tracing.Completed, nil)
	link := ended()[0].Links[0].SpanContext
	if got := fmt.Sprintf("00-%s-%s-01", link.TraceID(), link.SpanID()); got != parent {
		t.Errorf("linked to %s, want %s", got, parent)
	}

	ctx, creation := tracer.StartCreate(t.Context(), tracing.Creation{})
	creation.End("", nil)
	sent := ended()[1].SpanContext
	want := map[string]string{"traceparent": fmt.Sprintf("00-%s-%s-01", sent.TraceID(), sent.SpanID())}
	if diff := cmp.Diff(want, tracer.Carrier(ctx)); diff != "" {
		t.Errorf("carrier (-want +got):\n%s", diff)
	}
}

func TestEmptyCarrierIsNil(t *testing.T) {
	t.Parallel()
	tracer, _ := record(t)
	if carrier := tracer.Carrier(t.Context()); carrier != nil {
		t.Errorf("the carrier of a context without trace and baggage is %v, want nil", carrier)
	}
}

// R160: a carrier that cannot be read is ignored.
func TestMalformedCarriersAreIgnored(t *testing.T) {
	t.Parallel()
	for _, stored := range []string{
		``, `null`, `7`, `"text"`, `[]`, `{}`, `{"traceContext":null}`, `{"traceContext":"x"}`, `{"traceContext":[1]}`,
		`{"traceContext":{"traceparent":7}}`, `{"traceContext":{"traceparent":"garbage","baggage":"=;,"}}`,
		`{"traceContext":{"traceparent":"00-00000000000000000000000000000000-0000000000000000-01"}}`, `{"trace`,
	} {
		t.Run(stored, func(t *testing.T) {
			t.Parallel()
			tracer, ended := record(t)
			run := row("run", "order", nil)
			run.Context = json.RawMessage(stored)
			_, pass := tracer.StartPass(t.Context(), run)
			pass.End(tracing.Completed, nil)
			if spans := ended(); len(spans) != 1 || len(spans[0].Links) != 0 {
				t.Errorf("spans are %+v, want one without links", spans)
			}
		})
	}
}

// A value that is not a string does not invalidate the others.
func TestReadableMembersOfACarrierCount(t *testing.T) {
	t.Parallel()
	tracer, ended := record(t)
	run := row("run", "order", nil)
	run.Context = json.RawMessage(`{"kubernetes":{"uid":"u"},"traceContext":{"x":7,
		"traceparent":"00-afb86b3816cb298a595d69c065ce0254-4fe2c8f77c0f7187-01"}}`)
	_, pass := tracer.StartPass(t.Context(), run)
	pass.End(tracing.Completed, nil)
	if links := ended()[0].Links; len(links) != 1 {
		t.Errorf("links are %v, want one", links)
	}
}

// R161: names, kinds and attributes of the spans.
func TestSpansHaveTheNamesAndAttributesOfOpenWorkflow(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC)
	run := row("run-1", "order", nil)
	run.Version, run.Attempts = new("2"), 3
	identity := map[string]any{
		"openworkflow.workflow.name": "order", "openworkflow.workflow.version": "2",
		"openworkflow.namespace.id": "shop", "openworkflow.run.id": "run-1",
	}
	tests := []struct {
		intent     string
		do         func(ctx context.Context, tracer *tracing.Tracer)
		name       string
		kind       trace.SpanKind
		attributes map[string]any
		status     sdktrace.Status
	}{{
		intent: "creation of a child",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartCreate(ctx, tracing.Creation{
				Workflow: openworkflow.Definition{Name: "order", Version: new("2")}, NamespaceID: "shop", RunID: "run-1", ParentRunID: "run-0",
			})
			span.End("", nil)
		},
		name: "workflow_run.create", kind: trace.SpanKindProducer,
		attributes: with(identity, "openworkflow.parent.run.id", "run-0"),
	}, {
		intent: "creation that finds an earlier run",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartCreate(ctx, tracing.Creation{
				Workflow: openworkflow.Definition{Name: "order"}, NamespaceID: "shop", RunID: "run-2",
			})
			span.SetRun("run-1")
			span.End("", nil)
		},
		name: "workflow_run.create", kind: trace.SpanKindProducer,
		attributes: map[string]any{
			"openworkflow.workflow.name": "order", "openworkflow.namespace.id": "shop", "openworkflow.run.id": "run-1",
		},
	}, {
		intent: "pass that fails",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartPass(ctx, run)
			span.End(tracing.Failed, fmt.Errorf("run: %w", &durable.PanicError{Value: "boom"}))
		},
		name: "workflow_run.execute", kind: trace.SpanKindConsumer,
		attributes: with(identity, "openworkflow.execution.attempt", int64(3),
			"openworkflow.execution.outcome", "failed", "error.type", "PanicError"),
		status: sdktrace.Status{Code: codes.Error, Description: "run: panic: boom"},
	}, {
		intent: "second call of a function step, to be retried",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartStep(ctx, run, tracing.Step{Name: "charge", Kind: openworkflow.KindFunction, Attempt: 2})
			span.End(tracing.Retrying, errors.New("declined"))
		},
		name: "step_attempt.execute", kind: trace.SpanKindInternal,
		attributes: with(identity, "openworkflow.step.name", "charge", "openworkflow.step.kind", "function",
			"openworkflow.execution.attempt", int64(2), "openworkflow.execution.outcome", "retrying", "error.type", "Error"),
		status: sdktrace.Status{Code: codes.Error, Description: "declined"},
	}, {
		intent: "sleep",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartStep(ctx, run, tracing.Step{Name: "nap", Kind: openworkflow.KindSleep, ResumeAt: at})
			span.End(tracing.Suspended, nil)
		},
		name: "step_attempt.execute", kind: trace.SpanKindInternal,
		attributes: with(identity, "openworkflow.step.name", "nap", "openworkflow.step.kind", "sleep",
			"openworkflow.step.resume_at", "2026-01-02T03:04:05.006Z", "openworkflow.execution.outcome", "suspended"),
	}, {
		intent: "child",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartStep(ctx, run, tracing.Step{Name: "parcel", Kind: openworkflow.KindWorkflow, ChildRunID: "run-2", TimeoutAt: at})
			span.End(tracing.Suspended, nil)
		},
		name: "step_attempt.execute", kind: trace.SpanKindInternal,
		attributes: with(identity, "openworkflow.step.name", "parcel", "openworkflow.step.kind", "workflow",
			"openworkflow.child.run.id", "run-2", "openworkflow.step.timeout_at", "2026-01-02T03:04:05.006Z",
			"openworkflow.execution.outcome", "suspended"),
	}, {
		intent: "wait for a signal",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartStep(ctx, run, tracing.Step{Name: "wait", Kind: openworkflow.KindSignalWait, Signal: "approved", TimeoutAt: at})
			span.End(tracing.Stale, nil)
		},
		name: "step_attempt.execute", kind: trace.SpanKindInternal,
		attributes: with(identity, "openworkflow.step.name", "wait", "openworkflow.step.kind", "signal-wait",
			"openworkflow.signal.name", "approved", "openworkflow.step.timeout_at", "2026-01-02T03:04:05.006Z",
			"openworkflow.execution.outcome", "stale"),
	}, {
		intent: "signal",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartSignalSend(ctx, "shop", "approved")
			span.SetRecipients(2)
			span.End("", nil)
		},
		name: "signal.send", kind: trace.SpanKindProducer,
		attributes: map[string]any{
			"openworkflow.namespace.id": "shop", "openworkflow.signal.name": "approved", "openworkflow.signal.recipient_count": int64(2),
		},
	}, {
		intent: "cancel",
		do: func(ctx context.Context, tracer *tracing.Tracer) {
			_, span := tracer.StartCancel(ctx, "shop", "run-1")
			span.End("", nil)
		},
		name: "workflow_run.cancel", kind: trace.SpanKindInternal,
		attributes: map[string]any{"openworkflow.namespace.id": "shop", "openworkflow.run.id": "run-1"},
	}}
	for _, test := range tests {
		t.Run(test.intent, func(t *testing.T) {
			t.Parallel()
			tracer, ended := record(t)
			test.do(t.Context(), tracer)
			span := ended()[0]
			if span.InstrumentationScope.Name != "openworkflow" {
				t.Errorf("the tracer is named %q, want openworkflow", span.InstrumentationScope.Name)
			}
			if span.Name != test.name || span.SpanKind != test.kind || span.Status != test.status {
				t.Errorf("span is %s %v %+v, want %s %v %+v", span.Name, span.SpanKind, span.Status, test.name, test.kind, test.status)
			}
			if diff := cmp.Diff(test.attributes, attributes(span.Attributes)); diff != "" {
				t.Errorf("attributes (-want +got):\n%s", diff)
			}
		})
	}
}

// A span that a step's function starts is within that of the step, which is within the pass.
func TestStepsAndTheirCallsAreWithinThePass(t *testing.T) {
	t.Parallel()
	tracer, ended := record(t)
	run := row("run-1", "order", nil)
	ctx, pass := tracer.StartPass(t.Context(), run)
	ctx, step := tracer.StartStep(ctx, run, tracing.Step{Name: "notify", Kind: openworkflow.KindFunction, Attempt: 1})
	_, signal := tracer.StartSignalSend(ctx, "shop", "approved")
	signal.End("", nil)
	step.End(tracing.Completed, nil)
	pass.End(tracing.Completed, nil)
	spans := ended()
	if spans[0].Parent.SpanID() != spans[1].SpanContext.SpanID() || spans[1].Parent.SpanID() != spans[2].SpanContext.SpanID() {
		t.Errorf("spans are not nested: %v", names(spans))
	}
}

// A tracer that is off costs the engine nothing.
func TestOffAllocatesNothing(t *testing.T) {
	var off *tracing.Tracer
	ctx := t.Context()
	run := row("run-1", "order", map[string]string{"traceparent": "00-afb86b3816cb298a595d69c065ce0254-4fe2c8f77c0f7187-01"})
	failure := errors.New("declined")
	allocations := testing.AllocsPerRun(100, func() {
		ctx, creation := off.StartCreate(ctx, tracing.Creation{NamespaceID: "shop", RunID: "run-1"})
		creation.SetRun("run-2")
		creation.End("", nil)
		ctx, pass := off.StartPass(ctx, run)
		ctx, step := off.StartStep(ctx, run, tracing.Step{Name: "charge", Kind: openworkflow.KindFunction, Attempt: 1})
		step.End(tracing.Retrying, failure)
		ctx, signal := off.StartSignalSend(ctx, "shop", "approved")
		signal.SetRecipients(1)
		signal.End("", nil)
		ctx, cancel := off.StartCancel(ctx, "shop", "run-1")
		cancel.End("", nil)
		pass.End(tracing.Completed, nil)
		if off.Carrier(ctx) != nil {
			t.Error("a tracer that is off carries something")
		}
	})
	if allocations != 0 {
		t.Errorf("%v allocations, want none", allocations)
	}
}

// record returns a tracer that records its spans, and a function that returns the ended ones in
// order.
func record(t *testing.T) (*tracing.Tracer, func() tracetest.SpanStubs) {
	t.Helper()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
	t.Cleanup(func() {
		if err := provider.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	propagator := propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
	return tracing.New(provider, propagator), exporter.GetSpans
}

// row is a claimed run with this carrier in its context.
func row(id, name string, carrier map[string]string) *openworkflow.Run {
	run := &openworkflow.Run{NamespaceID: "shop", ID: id, WorkflowName: name, Attempts: 1}
	if carrier != nil {
		context, err := json.Marshal(openworkflow.RunContext{TraceContext: carrier})
		if err != nil {
			panic(err)
		}
		run.Context = context
	}
	return run
}

func withBaggage(ctx context.Context, key, value string) (context.Context, error) {
	member, err := baggage.NewMember(key, value)
	if err != nil {
		return nil, err
	}
	b, err := baggage.New(member)
	return baggage.ContextWithBaggage(ctx, b), err
}

func attributes(list []attribute.KeyValue) map[string]any {
	m := map[string]any{}
	for _, a := range list {
		m[string(a.Key)] = a.Value.AsInterface()
	}
	return m
}

// with returns the map with these keys and values.
func with(base map[string]any, more ...any) map[string]any {
	m := map[string]any{}
	maps.Copy(m, base)
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

func names(spans tracetest.SpanStubs) []string {
	var all []string
	for _, span := range spans {
		all = append(all, span.Name)
	}
	return all
}
