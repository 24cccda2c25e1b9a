package projection

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/crdtest"
	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// apiServer is what the API server does with a WorkflowRun.
var apiServer = sync.OnceValues(func() (*crdtest.Kind, error) {
	return crdtest.Load("../../config/crd/bases/openworkflow.dev_workflowruns.yaml")
})

const newObject = `{"apiVersion":"openworkflow.dev/v1alpha1","kind":"WorkflowRun","metadata":{"name":"a"},"spec":{"workflowName":"w"}}`

// hostileRow is what anybody who may write to the tables can put into a row.
type hostileRow struct {
	id, worker, status, output, failure   string
	stepName, stepKind, stepStatus, waits string
	seconds                               int64 // the instants, since 1970
	attempts, steps                       int
	shape                                 uint8 // which of the optional values are there
}

func (h hostileRow) rows() (*openworkflow.Run, openworkflow.StepSummary) {
	at := time.Unix(h.seconds, 5).UTC()
	optional := func(bit uint8) *time.Time {
		if h.shape&bit == 0 {
			return nil
		}
		return &at
	}
	run := &openworkflow.Run{
		ID: h.id, Status: openworkflow.RunStatus(h.status), Attempts: h.attempts, Output: []byte(h.output), Error: []byte(h.failure),
		AvailableAt: optional(1), StartedAt: optional(2), FinishedAt: optional(4), SuspendedAt: optional(8), CreatedAt: at, UpdatedAt: at,
	}
	if h.shape&16 != 0 {
		run.WorkerID = &h.worker
	}
	steps := openworkflow.StepSummary{Completed: h.steps, Running: h.steps, Failed: h.steps, Names: h.steps}
	for range int(h.shape >> 5) {
		steps.Newest = append(steps.Newest, openworkflow.StepAttempt{
			StepName: h.stepName, Kind: openworkflow.StepKind(h.stepKind), Status: openworkflow.StepStatus(h.stepStatus),
			Context: []byte(h.waits), Error: []byte(h.failure), StartedAt: optional(2), FinishedAt: optional(4),
		})
	}
	return run, steps
}

// hostileRows are those that once made a status which the API server refused or changed.
func hostileRows() map[string]hostileRow {
	completed := hostileRow{id: "run-1", status: "completed", seconds: 1_800_000_000, attempts: 1, shape: 6}
	failed := hostileRow{id: "run-1", status: "failed", seconds: 1_800_000_000, attempts: 1, shape: 6 | 5<<5}
	with := func(row hostileRow, change func(*hostileRow)) hostileRow {
		change(&row)
		return row
	}
	returned := func(output string) hostileRow { return with(completed, func(h *hostileRow) { h.output = output }) }
	return map[string]hostileRow{
		"a number of 617 digits":          returned(`{"N":` + strings.Repeat("7", 617) + `,"E":65537}`),
		"a number of 20 digits":           returned(`[12345678901234567890]`),
		"a fraction of 20 digits":         returned(`[0.12345678901234567890]`),
		"a number that is almost 0":       returned(`1e-400`),
		"the largest int64":               returned(`[9223372036854775807,-9223372036854775808,9223372036854775808]`),
		"floats that are exact":           returned(`[0.1,1e21,1.50,-0.0,1e300,1E2]`),
		"as deep as it is long":           returned(strings.Repeat("[", 1000) + strings.Repeat("]", 1000)),
		"deeper than JSON may be":         returned(strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001)),
		"bytes that are not UTF-8":        returned("\"\xff\""),
		"half of a surrogate pair":        returned(`"\ud800"`),
		"null":                            returned("null"),
		"what grows when it is written":   returned(`"` + strings.Repeat("<", maxOutput-2) + `"`),
		"not JSON":                        returned("{"),
		"an error that is not UTF-8":      with(failed, func(h *hostileRow) { h.failure = "{\"name\":\"\xff\",\"message\":\"a\\u0000\xff\"}" }),
		"an error with control signs":     with(failed, func(h *hostileRow) { h.failure = `{"message":"` + strings.Repeat(`\u0007`, 900) + `"}` }),
		"a step without a name":           with(failed, func(h *hostileRow) { h.stepKind, h.stepStatus = "", "" }),
		"a step's name that is not UTF-8": with(failed, func(h *hostileRow) { h.stepName = strings.Repeat("\xff\x00", 300) }),
		"due in the year 12000":           with(failed, func(h *hostileRow) { h.status, h.seconds, h.shape = "running", 316_516_464_000, 3 }),
		"ended in the year 12000":         with(completed, func(h *hostileRow) { h.seconds = 316_516_464_000 }),
		"ended before Christ":             with(completed, func(h *hostileRow) { h.seconds = -99_999_999_999 }),
		"ended at the zero time":          with(completed, func(h *hostileRow) { h.seconds = time.Time{}.Unix() }),
		"fewer than no attempts":          with(failed, func(h *hostileRow) { h.attempts, h.steps = -1, -1 }),
		"more attempts than an int32 has": with(failed, func(h *hostileRow) { h.attempts, h.steps = 1<<40, 1<<40 }),
		"an id of 1,000 characters":       with(failed, func(h *hostileRow) { h.id = strings.Repeat("x", 1000) }),
		"no id":                           with(failed, func(h *hostileRow) { h.id = "" }),
		"another state":                   with(failed, func(h *hostileRow) { h.status = "\x00" }),
	}
}

// FuzzStatus projects rows that anybody may have written. The API server accepts each status, and
// keeps it as it is.
func FuzzStatus(f *testing.F) {
	rows := hostileRows()
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		h := rows[name]
		f.Add(h.id, h.worker, h.status, h.output, h.failure, h.stepName, h.stepKind, h.stepStatus, h.waits, h.seconds, h.attempts, h.steps, h.shape)
	}
	server, err := apiServer()
	if err != nil {
		f.Fatal(err)
	}
	stored, err := server.Store([]byte(newObject))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, id, worker, status, output, failure, stepName, stepKind, stepStatus, waits string, seconds int64, attempts, steps int, shape uint8) {
		h := hostileRow{id, worker, status, output, failure, stepName, stepKind, stepStatus, waits, seconds, attempts, steps, shape}
		run, summary := h.rows()
		sent := Status(run, summary, worker)
		encoded, err := json.Marshal(sent)
		if err != nil {
			t.Fatalf("encode: %v", err)
		}
		if len(encoded) > 8<<10 {
			t.Errorf("the status takes %d bytes", len(encoded))
		}
		object, err := server.UpdateStatus(stored, encoded)
		if err != nil {
			t.Fatalf("refused: %v\n%s", err, encoded)
		}
		var kept v1alpha1.WorkflowRun
		if err := json.Unmarshal(object, &kept); err != nil {
			t.Fatalf("decode: %v", err)
		}
		if len(output) > 0 && output != "null" && sent.State == v1alpha1.RunCompleted && (sent.Output == nil) != (sent.OutputTruncated != nil) {
			t.Errorf("an output of %.100s is shown as %v, and marked as left out: %v", output, sent.Output, sent.OutputTruncated)
		}
		if sent.Output != nil {
			if kept.Status.Output == nil || !sameJSON(t, sent.Output.Raw, kept.Status.Output.Raw) {
				t.Errorf("the output %s became %v", sent.Output.Raw, kept.Status.Output)
			}
			sent.Output, kept.Status.Output = nil, nil
		}
		if !equality.Semantic.DeepEqual(sent, kept.Status) {
			t.Errorf("the status\n%s became\n%s", encoded, object)
		}
	})
}

// sameJSON reports whether two texts are the same JSON value, with numbers of any precision.
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	decode := func(raw []byte) (value any) {
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		if err := decoder.Decode(&value); err != nil {
			t.Fatalf("decode %s: %v", raw, err)
		}
		return value
	}
	return sameValue(decode(a), decode(b))
}

func sameValue(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		other, ok := b.(json.Number)
		x, ok1 := new(big.Rat).SetString(a.String())
		y, ok2 := new(big.Rat).SetString(other.String())
		return ok && ok1 && ok2 && x.Cmp(y) == 0
	case map[string]any:
		other, ok := b.(map[string]any)
		if !ok || len(a) != len(other) {
			return false
		}
		for key, value := range a {
			if !sameValue(value, other[key]) {
				return false
			}
		}
		return true
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
	default:
		return a == b
	}
}

func TestStatus_P7_MarksWhatAStatusCannotHold(t *testing.T) {
	t.Parallel()
	shown := map[string]bool{"the largest int64": false, "floats that are exact": true, "as deep as it is long": true, "a number of 20 digits": false,
		"a number of 617 digits": false, "a number that is almost 0": false, "a fraction of 20 digits": false, "what grows when it is written": false,
		"deeper than JSON may be": false, "bytes that are not UTF-8": false, "half of a surrogate pair": false, "not JSON": false}
	for name, want := range shown {
		h := hostileRows()[name]
		status := Status(h.row(), openworkflow.StepSummary{}, "")
		if got := status.Output != nil; got != want || (status.OutputTruncated != nil) == want {
			t.Errorf("an output of %s is shown: %v, and marked: %v", name, got, status.OutputTruncated)
		}
	}
	status := Status(row(func(r *openworkflow.Run) {
		r.Status, r.Attempts, r.AvailableAt = openworkflow.RunRunning, 1, new(time.Date(12_000, 1, 1, 0, 0, 0, 0, time.UTC))
	}), openworkflow.StepSummary{}, "")
	if status.NextAt != nil || !strings.Contains(status.Message, "12000-01-01T00:00:00Z") {
		t.Errorf("a run that is due in the year 12000 has the time %v and the message %q", status.NextAt, status.Message)
	}
}

func (h hostileRow) row() *openworkflow.Run {
	run, _ := h.rows()
	return run
}
