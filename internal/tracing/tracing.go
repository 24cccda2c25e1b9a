package tracing

import (
	"context"
	"encoding/json"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/openworkflow-operator/operator/internal/durable"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// Outcome is how a pass or a call of a step's function ended (R161).
type Outcome string

// Outcomes of a pass or a call of a step.
const (
	// Completed: it returned a result.
	Completed Outcome = "completed"
	// Suspended: it continues later, without a failure: the run waits, is suspended or was
	// handed back.
	Suspended Outcome = "suspended"
	// Retrying: it failed and is retried.
	Retrying Outcome = "retrying"
	// Failed: it failed for good.
	Failed Outcome = "failed"
	// Stale: the worker no longer held the run, so nothing was stored.
	Stale Outcome = "stale"
)

// Names of the attributes.
const (
	workflowName     = attribute.Key("openworkflow.workflow.name")
	workflowVersion  = attribute.Key("openworkflow.workflow.version")
	namespaceID      = attribute.Key("openworkflow.namespace.id")
	runID            = attribute.Key("openworkflow.run.id")
	parentRunID      = attribute.Key("openworkflow.parent.run.id")
	stepName         = attribute.Key("openworkflow.step.name")
	stepKind         = attribute.Key("openworkflow.step.kind")
	childRunID       = attribute.Key("openworkflow.child.run.id")
	stepResumeAt     = attribute.Key("openworkflow.step.resume_at")
	stepTimeoutAt    = attribute.Key("openworkflow.step.timeout_at")
	executionAttempt = attribute.Key("openworkflow.execution.attempt")
	executionOutcome = attribute.Key("openworkflow.execution.outcome")
	signalName       = attribute.Key("openworkflow.signal.name")
	signalRecipients = attribute.Key("openworkflow.signal.recipient_count")
	errorType        = attribute.Key("error.type")
	tracerName       = "openworkflow"
	spanCreate       = "workflow_run.create"
	spanExecute      = "workflow_run.execute"
	spanCancel       = "workflow_run.cancel"
	spanStepAttempt  = "step_attempt.execute"
	spanSignalSend   = "signal.send"
)

// Tracer starts spans. A nil Tracer is off.
type Tracer struct {
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator
}

// New returns a tracer that starts its spans with this provider. Most callers want
// otlp.FromEnv or Global.
func New(provider trace.TracerProvider, propagator propagation.TextMapPropagator) *Tracer {
	return &Tracer{tracer: provider.Tracer(tracerName), propagator: propagator}
}

// Span is a started span. The zero Span belongs to a tracer that is off.
type Span struct{ span trace.Span }

// End ends the span. The outcome is empty for a span that is no execution (a creation, a
// cancel, a signal). An error marks the span as failed, with the error type that is stored
// (R120).
func (s Span) End(outcome Outcome, err error) {
	if s.span == nil {
		return
	}
	if outcome != "" {
		s.span.SetAttributes(executionOutcome.String(string(outcome)))
	}
	if err != nil {
		payload := durable.EncodeError(err)
		s.span.SetAttributes(errorType.String(payload.Name))
		s.span.SetStatus(codes.Error, payload.Message)
	}
	s.span.End()
}

// SetRun sets the id of the run that a creation returned: an idempotency key may have found
// an earlier run.
func (s Span) SetRun(id string) {
	if s.span != nil {
		s.span.SetAttributes(runID.String(id))
	}
}

// SetRecipients sets how many runs a signal was delivered to.
func (s Span) SetRecipients(n int) {
	if s.span != nil {
		s.span.SetAttributes(signalRecipients.Int(n))
	}
}

// Carrier returns what to store of the context with a run that is created now, as
// traceContext in the context column; nil if there is nothing (R160).
func (t *Tracer) Carrier(ctx context.Context) map[string]string {
	if t == nil {
		return nil
	}
	carrier := propagation.MapCarrier{}
	t.propagator.Inject(ctx, carrier)
	if len(carrier) == 0 {
		return nil
	}
	return carrier
}

// Creation is a run that is about to be created.
type Creation struct {
	Workflow    openworkflow.Definition
	NamespaceID string
	RunID       string
	// ParentRunID is the parent of a child run; empty for none.
	ParentRunID string
}

// StartCreate starts the span of a run's creation. Store the Carrier of the context that it
// returns.
func (t *Tracer) StartCreate(ctx context.Context, c Creation) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	attributes := identity(c.Workflow, c.NamespaceID, c.RunID)
	if c.ParentRunID != "" {
		attributes = append(attributes, parentRunID.String(c.ParentRunID))
	}
	return t.start(ctx, spanCreate, trace.SpanKindProducer, attributes)
}

// StartPass starts the span of one pass. It is the root of a new trace, linked to the run's
// creation, whose baggage is in the returned context. There is no link if the run carries no
// trace, or one that cannot be parsed.
func (t *Tracer) StartPass(ctx context.Context, run *openworkflow.Run) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	attributes := append(identityOf(run), executionAttempt.Int(run.Attempts))
	options := []trace.SpanStartOption{trace.WithNewRoot()}
	ctx = t.propagator.Extract(ctx, carried(run.Context))
	if creation := trace.SpanContextFromContext(ctx); creation.IsRemote() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: creation}))
	}
	return t.start(ctx, spanExecute, trace.SpanKindConsumer, attributes, options...)
}

// Step is an attempt of a step that is about to start. Fields that do not belong to its kind
// are zero.
type Step struct {
	// Name is the durable name.
	Name string
	Kind openworkflow.StepKind
	// Attempt counts the calls of a function step, from 1.
	Attempt int
	// ChildRunID is the child that a workflow step starts.
	ChildRunID string
	// ResumeAt is when a sleep ends, TimeoutAt when another wait times out.
	ResumeAt, TimeoutAt time.Time
	// Signal is the signal that a signal step waits for.
	Signal string
}

// StartStep starts the span of an attempt of a step, within the pass of the context. A
// function step has a span per call of its function, which gets the returned context. Other
// steps have one span when they start to wait, with the outcome Suspended.
func (t *Tracer) StartStep(ctx context.Context, run *openworkflow.Run, step Step) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	attributes := append(identityOf(run), stepName.String(step.Name), stepKind.String(string(step.Kind)))
	if step.Attempt > 0 {
		attributes = append(attributes, executionAttempt.Int(step.Attempt))
	}
	if step.ChildRunID != "" {
		attributes = append(attributes, childRunID.String(step.ChildRunID))
	}
	if !step.ResumeAt.IsZero() {
		attributes = append(attributes, stepResumeAt.String(openworkflow.FormatTime(step.ResumeAt)))
	}
	if !step.TimeoutAt.IsZero() {
		attributes = append(attributes, stepTimeoutAt.String(openworkflow.FormatTime(step.TimeoutAt)))
	}
	if step.Signal != "" {
		attributes = append(attributes, signalName.String(step.Signal))
	}
	return t.start(ctx, spanStepAttempt, trace.SpanKindInternal, attributes)
}

// StartSignalSend starts the span of sending a signal.
func (t *Tracer) StartSignalSend(ctx context.Context, namespace, signal string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, spanSignalSend, trace.SpanKindProducer,
		[]attribute.KeyValue{namespaceID.String(namespace), signalName.String(signal)})
}

// StartCancel starts the span of canceling a run.
func (t *Tracer) StartCancel(ctx context.Context, namespace, id string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	return t.start(ctx, spanCancel, trace.SpanKindInternal,
		[]attribute.KeyValue{namespaceID.String(namespace), runID.String(id)})
}

func (t *Tracer) start(
	ctx context.Context, name string, kind trace.SpanKind, attributes []attribute.KeyValue, options ...trace.SpanStartOption,
) (context.Context, Span) {
	options = append(options, trace.WithSpanKind(kind), trace.WithAttributes(attributes...))
	ctx, span := t.tracer.Start(ctx, name, options...)
	return ctx, Span{span: span}
}

func identityOf(run *openworkflow.Run) []attribute.KeyValue {
	return identity(openworkflow.Definition{Name: run.WorkflowName, Version: run.Version}, run.NamespaceID, run.ID)
}

func identity(w openworkflow.Definition, namespace, id string) []attribute.KeyValue {
	attributes := append(make([]attribute.KeyValue, 0, 8),
		workflowName.String(w.Name), namespaceID.String(namespace), runID.String(id))
	if w.Version != nil {
		attributes = append(attributes, workflowVersion.String(*w.Version))
	}
	return attributes
}

// carried returns the carrier in a run's context, without values that are not strings (R160).
func carried(context json.RawMessage) propagation.MapCarrier {
	var c struct {
		TraceContext json.RawMessage `json:"traceContext"`
	}
	var values map[string]any
	if json.Unmarshal(context, &c) != nil || json.Unmarshal(c.TraceContext, &values) != nil {
		return nil
	}
	carrier := propagation.MapCarrier{}
	for key, value := range values {
		if text, ok := value.(string); ok {
			carrier[key] = text
		}
	}
	return carrier
}
