package client

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/testpg"
	"github.com/openworkflow-operator/operator/internal/tracing"
	"github.com/openworkflow-operator/operator/workflow"
)

func TestTraces_R160_R161(t *testing.T) {
	t.Parallel()
	c, err := Open(t.Context(), Config{PostgresURL: testpg.New(t), Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	exporter := tracetest.NewInMemoryExporter()
	c.tracer = tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)), propagation.TraceContext{})
	w := workflow.Declare[any, any]("wf")

	run, err := Start(t.Context(), c, w, 1, IdempotencyKey("k"))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Start(t.Context(), c, w, 1, IdempotencyKey("k")); err != nil || again.ID() != run.ID() {
		t.Fatalf("%+v, %v", again, err)
	}
	if _, err := Start(t.Context(), c, w, "\x00"); err == nil {
		t.Fatal("stored what Postgres cannot hold")
	}
	if _, err := StartBatch(t.Context(), c, w, []Item[any]{{Input: 1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Signal(t.Context(), "go", 1); err != nil {
		t.Fatal(err)
	}
	if err := run.Cancel(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Cancel(t.Context(), "missing"); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}

	type span struct{ Name, Run, Status string }
	var got []span
	spans := exporter.GetSpans()
	for _, s := range spans {
		one := span{Name: s.Name, Status: s.Status.Code.String()}
		for _, a := range s.Attributes {
			if a.Key == "openworkflow.run.id" && a.Value.AsString() == run.ID() {
				one.Run = "the run"
			}
		}
		got = append(got, one)
	}
	if diff := cmp.Diff([]span{
		{"workflow_run.create", "the run", "Unset"},
		{"workflow_run.create", "the run", "Unset"},
		{"workflow_run.create", "", "Error"},
		{"workflow_run.create", "", "Unset"},
		{"signal.send", "", "Unset"},
		{"workflow_run.cancel", "the run", "Unset"},
		{"workflow_run.cancel", "", "Error"},
	}, got); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	rows, err := c.store.GetRuns(t.Context(), []string{run.ID()})
	if err != nil {
		t.Fatal(err)
	}
	var stored openworkflow.RunContext
	if err := json.Unmarshal(rows[run.ID()].Context, &stored); err != nil {
		t.Fatal(err)
	}
	creation := spans[0].SpanContext
	want := map[string]string{"traceparent": "00-" + creation.TraceID().String() + "-" + creation.SpanID().String() + "-01"}
	if diff := cmp.Diff(want, stored.TraceContext); diff != "" {
		t.Errorf("the run's trace context (-want +got):\n%s", diff)
	}
}
