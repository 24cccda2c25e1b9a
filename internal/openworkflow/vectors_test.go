package openworkflow

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// vectors are inputs and outputs of the TypeScript implementation's pure functions.
type vectors struct {
	Durations []struct {
		Input string
		OK    bool
		MS    any
		Error string
	}
	Backoff []struct {
		InitialInterval    string
		BackoffCoefficient float64
		MaximumInterval    string
		Attempt            int
		DelayMs            *float64
	}
	StepNames     []struct{ Requested, Resolved []string }
	AdvisoryLocks []struct{ NamespaceID, WorkflowName, IdempotencyKey, Scope string }
	FailedRun     []struct {
		Policy struct {
			InitialInterval    string
			BackoffCoefficient float64
			MaximumInterval    string
			MaximumAttempts    int
		}
		Attempts   int
		DeadlineAt *time.Time
		Now        time.Time
		Result     struct {
			Status      string
			AvailableAt *time.Time
			FinishedAt  *time.Time
			Error       json.RawMessage
		}
	} `json:"failedRunUpdate"`
}

func load(t *testing.T) vectors {
	t.Helper()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// interval reads a policy's interval; one that cannot be read counts as 0 (R95).
func interval(t *testing.T, s string) time.Duration {
	t.Helper()
	ms, err := ParseDuration(s)
	if err != nil {
		return 0
	}
	return time.Duration(ms * float64(time.Millisecond))
}

func TestParseDuration_R31_R32(t *testing.T) {
	t.Parallel()
	for _, v := range load(t).Durations {
		t.Run(v.Input, func(t *testing.T) {
			t.Parallel()
			got, err := ParseDuration(v.Input)
			switch want := v.MS.(type) {
			case float64:
				if err != nil || got != want {
					t.Errorf("ParseDuration(%q) = %v, %v; want %v", v.Input, got, err, want)
				}
			case string: // Q9: upstream looks units up among inherited members; we refuse
				if err == nil {
					t.Errorf("ParseDuration(%q) = %v, want an error", v.Input, got)
				}
			default:
				if err == nil || err.Error() != v.Error {
					t.Errorf("ParseDuration(%q) = %v, %v; want error %s", v.Input, got, err, v.Error)
				}
			}
		})
	}
}

func TestParseDuration_IsASCII(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"1\u017f", "1m\u017f", "1\u212a", "1s\n", "1.5.5s", ".5.5s", "1\u00a0s "} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", s, got)
		}
	}
	if got, err := ParseDuration("2\u00a0s"); err != nil || got != 2000 {
		t.Errorf("ParseDuration with JavaScript's space = %v, %v; want 2000", got, err)
	}
}

func TestDelay_R95(t *testing.T) {
	t.Parallel()
	for _, v := range load(t).Backoff {
		p := RetryPolicy{
			InitialInterval:    interval(t, v.InitialInterval),
			BackoffCoefficient: v.BackoffCoefficient,
			MaximumInterval:    interval(t, v.MaximumInterval),
		}
		var want float64 // null stands for NaN, which is no delay
		if v.DelayMs != nil {
			want = *v.DelayMs
		}
		got := float64(p.Delay(v.Attempt)) / float64(time.Millisecond)
		if math.Abs(got-want) > 1e-6 {
			t.Errorf("%+v.Delay(%d) = %vms, want %vms", p, v.Attempt, got, want)
		}
	}
}

func TestDecide_R100(t *testing.T) {
	t.Parallel()
	for _, v := range load(t).FailedRun {
		p := RetryPolicy{
			InitialInterval:    interval(t, v.Policy.InitialInterval),
			BackoffCoefficient: v.Policy.BackoffCoefficient,
			MaximumInterval:    interval(t, v.Policy.MaximumInterval),
			MaximumAttempts:    v.Policy.MaximumAttempts,
		}
		got := Decide(p, v.Attempts, v.DeadlineAt, Error{Message: "e"}.Encode(), v.Now)
		want := Decision{Retry: v.Result.Status == "pending"}
		if want.Retry {
			want.At = *v.Result.AvailableAt
		} else {
			want.At = *v.Result.FinishedAt
		}
		want.Error = Error{Message: DecodeError(v.Result.Error).Message}.Encode()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Decide(%+v, %d, %v) differs (-want +got):\n%s", p, v.Attempts, v.DeadlineAt, diff)
		}
	}
}

func TestDecide_CutsOffToMilliseconds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 1_999_999, time.UTC)
	p := RetryPolicy{InitialInterval: 1500 * time.Microsecond, BackoffCoefficient: 1, MaximumInterval: time.Second}
	if got, want := Decide(p, 1, nil, nil, now).At, time.Date(2026, 1, 1, 0, 0, 0, 2_000_000, time.UTC); !got.Equal(want) {
		t.Errorf("At = %v, want %v", got, want)
	}
}

func TestNames_R89(t *testing.T) {
	t.Parallel()
	for _, v := range load(t).StepNames {
		names := NewNames()
		got := make([]string, 0, len(v.Requested))
		for _, base := range v.Requested {
			got = append(got, names.Resolve(base))
		}
		if diff := cmp.Diff(v.Resolved, got); diff != "" {
			t.Errorf("names for %q differ (-want +got):\n%s", v.Requested, diff)
		}
	}
}

func TestIdempotencyScope_R52(t *testing.T) {
	t.Parallel()
	for _, v := range load(t).AdvisoryLocks {
		if got := IdempotencyScope(v.NamespaceID, v.WorkflowName, v.IdempotencyKey); got != v.Scope {
			t.Errorf("scope = %s, want %s", got, v.Scope)
		}
	}
	got := IdempotencyScope("\b\t\n\f\r\x01\x1f\x7f", "<>&\u2028\u2029", `"\`)
	want := `{"namespaceId":"\b\t\n\f\r\u0001\u001f` + "\x7f" + `","workflowName":"<>&` + "\u2028\u2029" + `","idempotencyKey":"\"\\"}`
	if got != want {
		t.Errorf("scope = %q, want %q", got, want)
	}
}

func TestTime_R30(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"2026-01-02T03:04:05.006Z":    time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC),
		"2026-01-02T03:04:05.000Z":    time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		"+012026-02-28T03:04:05.120Z": time.Date(12026, 2, 28, 3, 4, 5, 12e7, time.UTC),
		"-000001-12-31T00:00:00.000Z": time.Date(-1, 12, 31, 0, 0, 0, 0, time.UTC),
	} {
		if got := FormatTime(want.Add(999 * time.Microsecond)); got != text {
			t.Errorf("FormatTime(%v) = %s, want %s", want, got, text)
		}
		if got, err := ParseTime(text); err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%s) = %v, %v; want %v", text, got, err, want)
		}
	}
	if got, err := ParseTime("2026-01-02T05:04:05+02:00"); err != nil || !got.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("ParseTime with a zone = %v, %v", got, err)
	}
	if got, err := ParseTime("+275760-09-13T00:00:00.000Z"); err != nil || FormatTime(got) != "+275760-09-13T00:00:00.000Z" {
		t.Errorf("ParseTime of JavaScript's last date = %v, %v", got, err)
	}
}

// TestParseTime_R72_RefusesWhatJavaScriptDoesNotHave: a sleep is over for both languages, or for
// neither.
func TestParseTime_R72_RefusesWhatJavaScriptDoesNotHave(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"not-a-date", "+275760-09-13T00:00:00.001Z", "-271821-04-19T23:59:59.999Z", "+999999-12-31T23:59:59.999Z", "+999999-12-31T23:59:59.999-12:00",
	} {
		if got, err := ParseTime(text); err == nil {
			t.Errorf("ParseTime(%s) = %v", text, got)
		}
	}
}

func TestColumn_R20(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"": "", "null": "", " null\n": "", `"null"`: `"null"`, "0": "0", "{}": "{}"} {
		if got := string(Column(json.RawMessage(in))); got != want {
			t.Errorf("Column(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestNewID_IncreasesAndIsVersion7(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := ""
			for range 5000 {
				id := NewID()
				if len(id) != 36 || id[14] != '7' || id[19] < '8' || id[19] > 'b' || id <= last {
					t.Errorf("NewID() = %s after %s", id, last)
					return
				}
				last = id
			}
		})
	}
	wg.Wait()
}

func TestPlainIsWhatPostgresStoresForCertain(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{
		`null`: true, `"text"`: true, `{"a":[1,2.5,-3,true,false,null]}`: true, `"\n\t\"\\ \/"`: true,
		`"\u003chtml\u003e \u0026 \u2028"`: true, `"é €"`: true, `"1e5 escape"`: true, `{"e":1}`: true, `[true,false]`: true,
		`"\u0000"`: false, `"\ud800"`: false, `"\ud83d\ude00"`: false, `1e5`: false, `1E400000`: false,
		`"\\u0000"`: true, `"\\\u0000"`: false,
		"\"\xff\"": false, "\"caf\xe9\"": false, "\"\xed\xa0\x80\"": false, "\"\xc3\"": false,
		strings.Repeat("[", 501) + strings.Repeat("]", 501): false,
		strings.Repeat("[", 500) + strings.Repeat("]", 500): true,
		`"` + strings.Repeat("x", 1<<20) + `"`:              false,
		strings.Repeat("9", 140_000):                        false,
	} {
		if got := Plain([]byte(value)); got != want {
			t.Errorf("Plain(%.40s) is %v", value, got)
		}
	}
}

func BenchmarkPlain(b *testing.B) {
	for name, value := range map[string]string{
		"ASCII": `{"id":"4f7c","items":[` + strings.Repeat(`{"name":"apple","amount":12.5},`, 30) + `1]}`,
		"UTF-8": `["` + strings.Repeat("Äpfel für 3 € ", 60) + `"]`,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(value)))
			b.ReportAllocs()
			for b.Loop() {
				if !Plain([]byte(value)) {
					b.Fatal("not plain")
				}
			}
		})
	}
}
