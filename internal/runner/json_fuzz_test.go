package runner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// carrier hands its input through everything that a value may pass: a step, a signal, a
// child's input and output, its own output.
var carrier = workflow.Define("carrier", func(ctx context.Context, in json.RawMessage) (json.RawMessage, error) {
	signal := "value of " + workflow.Info(ctx).ID
	wait := step.GoWaitForSignal[json.RawMessage](ctx, signal)
	out, err := step.Run(ctx, "step", func(context.Context) (json.RawMessage, error) { return in, nil })
	if err != nil {
		return nil, err
	}
	if _, err := step.SendSignal(ctx, signal, out, step.Name("send")); err != nil {
		return nil, err
	}
	received, err := wait.Await()
	if err != nil {
		return nil, err
	}
	return step.RunWorkflow(ctx, last, received.Data)
})

var last = workflow.Define("last", func(_ context.Context, in json.RawMessage) (json.RawMessage, error) { return in, nil })

// FuzzJSON looks for a value that comes out of a run as another one, or that fails without a
// reason.
func FuzzJSON(f *testing.F) {
	for _, value := range []string{
		``, `null`, ` null `, `"null"`, `0`, `-0`, `-0.0`, `1e5`, `1E-7`, `1e308`, `1e309`, `1e-400`, `1e131071`, `1e131072`, `1e2147483648`,
		`12345678901234567890`, `0.1000000000000000055511151231257827021181583404541015625`, `1.50`, `01`, `+1`, `NaN`,
		`"\u0000"`, `"\ud800"`, `"\udc00\ud800"`, `"\ud83d\ude00"`, `"😀"`, `"\u2028\u2029\u007f\ufffe\uffff"`, `"<script>&"`, `"\/\b\f\n\r\t\\\""`,
		"\"\x00\"", "\"\xff\"", "\"\xed\xa0\x80\"", "\"\x1f\"", `{"a":1,"a":2}`, `{"":{"":[]}}`, `{"\u0000":1}`, `{"__proto__":{}}`, `[[],{},null,true]`,
		`{"data":1}`, `{"b":1,"a":2,"aa":3}`, strings.Repeat(`[`, 501) + strings.Repeat(`]`, 501), strings.Repeat(`{"a":`, 4000) + `1` + strings.Repeat(`}`, 4000),
		strings.Repeat(`[`, 9_999) + strings.Repeat(`]`, 9_999), strings.Repeat(`[`, 10_001) + strings.Repeat(`]`, 10_001),
		`"` + strings.Repeat("x", 200_000) + `"`, strings.Repeat("9", 140_000), `{`, `[1,]`, "\ufeff1", `1 2`,
	} {
		f.Add(value)
	}
	p := newPoisoned(f, carrier, last)
	f.Fuzz(func(t *testing.T, value string) {
		p.clear(t)
		input := json.RawMessage(value)
		created, err := p.store.CreateRuns(t.Context(), []store.NewRun{
			{ID: poisonID, WorkflowName: carrier.Name(), Input: input},
			{ID: neighbourID, WorkflowName: carrier.Name(), Input: json.RawMessage(goodInput)},
		})
		if err != nil || created[1].Err != nil {
			t.Fatalf("the neighbour is refused: %v, %v", err, created)
		}
		p.awaitNeighbour(t)
		if refused := created[0].Err; refused != nil {
			if !errors.Is(refused, store.ErrInvalidJSON) && !errors.Is(refused, store.ErrTooLarge) || len(refused.Error()) < 40 {
				t.Errorf("the input is refused without a reason: %v", refused)
			}
			return
		}
		switch o := p.outcome(t, poisonID); o.Status {
		case openworkflow.RunCompleted:
			if !sameJSON(t, input, o.Output) {
				t.Errorf("%q came out as %q", input, o.Output)
			}
		default: // deeper than encoding/json reads
			if message := openworkflow.DecodeError(o.Error).Message; !strings.Contains(message, "exceeded max depth") {
				t.Errorf("the run is %s with error %s", o.Status, o.Error)
			}
		}
	})
}

// sameJSON compares values as jsonb does: numbers by what they stand for, the last of several
// members of one name.
func sameJSON(t *testing.T, in, out json.RawMessage) bool {
	t.Helper()
	read := func(raw json.RawMessage) (value any) {
		if raw = openworkflow.Column(raw); raw == nil {
			return nil
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		if err := decoder.Decode(&value); err != nil {
			t.Fatal(err)
		}
		return value
	}
	return sameValue(read(in), read(out))
}

func sameValue(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		other, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, xOK := new(big.Rat).SetString(a.String())
		y, yOK := new(big.Rat).SetString(other.String())
		return xOK && yOK && x.Cmp(y) == 0
	case []any:
		other, ok := b.([]any)
		if !ok || len(a) != len(other) {
			return false
		}
		for i := range a {
			if !sameValue(a[i], other[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		other, ok := b.(map[string]any)
		if !ok || len(a) != len(other) {
			return false
		}
		for name := range a {
			value, ok := other[name]
			if !ok || !sameValue(a[name], value) {
				return false
			}
		}
		return true
	default:
		return a == b
	}
}
