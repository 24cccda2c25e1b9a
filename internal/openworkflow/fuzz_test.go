package openworkflow

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzTexts looks for a duration, a date or a cursor that is read as something else than it is
// written as.
func FuzzTexts(f *testing.F) {
	for _, text := range []string{
		"", "5", "1.5 h", ".5ms", "-3 weeks", "1\u00a0year", "1e5 s", "9" + strings.Repeat("0", 400) + "y", "1mo", "1M", "0x10", "1 s ",
		"2026-01-02T03:04:05.006Z", "2026-01-02", "2026-01-02T03:04+14:00", "+275760-09-13T00:00:00.000Z", "-000001-12-31T00:00:00.000Z",
		"+999999-12-31T23:59:59.999-12:00", "0000-01-01T00:00:00Z", "2024-02-30", "2027-01-01t00:00:00z", "2016-12-31T23:59:60Z",
		Cursor{CreatedAt: time.UnixMilli(0), ID: "run"}.String(), Cursor{}.String(), "eyJpZCI6MX0=",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		switch ms, err := ParseDuration(text); {
		case err != nil && err.Error() != `Invalid duration format: "`+text+`"`:
			t.Errorf("ParseDuration(%q): %v", text, err)
		case err == nil:
			again, err := ParseDuration(strings.ToUpper(text)) // units have no case (R31)
			if err != nil || again != ms || math.IsNaN(ms) {
				t.Errorf("ParseDuration(%q) is %v, in capitals %v, %v", text, ms, again, err)
			}
		}
		if at, err := ParseTime(text); err == nil {
			checkTime(t, at)
		}
		if c, err := ParseCursor(text); err == nil {
			checkTime(t, c.CreatedAt)
			want := Cursor{CreatedAt: c.CreatedAt.Truncate(time.Millisecond), ID: c.ID}
			if again, err := ParseCursor(c.String()); err != nil || !again.CreatedAt.Equal(want.CreatedAt) || again.ID != want.ID {
				t.Errorf("%q reads as %+v, and what that writes as %+v, %v", text, c, again, err)
			}
		}
	})
}

// checkTime checks that an instant is read as it is written (R30).
func checkTime(t *testing.T, at time.Time) {
	t.Helper()
	text := FormatTime(at)
	if again, err := ParseTime(text); err != nil || !again.Equal(time.UnixMilli(at.UnixMilli())) {
		t.Errorf("%v is written as %s and read as %v, %v", at, text, again, err)
	}
}

// FuzzRetry looks for a policy and a failure after which a run is retried too early, too late,
// or although it must not be.
func FuzzRetry(f *testing.F) {
	for _, v := range []struct {
		initial, maximum    int64
		coefficient         float64
		attempts, n         int
		now, deadline       int64
		withoutRunsDeadline bool
	}{
		{1e9, 1e11, 2, 10, 1, 0, 0, true},
		{math.MaxInt64, math.MaxInt64, math.Inf(1), 0, math.MaxInt, math.MaxInt64, 1, false},
		{math.MinInt64, -1, -2, -1, math.MinInt, 0, math.MinInt64, false},
		{0, 0, math.NaN(), 3, 3, 1, 1, false},
		{1, 1 << 62, 1e308, 100, 99, 1e12, 2e12, false},
	} {
		f.Add(v.initial, v.maximum, v.coefficient, v.attempts, v.n, v.now, v.deadline, v.withoutRunsDeadline)
	}
	f.Fuzz(func(t *testing.T, initial, maximum int64, coefficient float64, attempts, n int, nowMillis, deadlineMillis int64, endless bool) {
		const centuries = 250 * 365 * 24 * 60 * 60 * 1000 // milliseconds; far from where a Time overflows
		now := time.UnixMilli(nowMillis % centuries)
		var deadline *time.Time
		if !endless {
			deadline = new(time.UnixMilli(deadlineMillis % centuries))
		}
		p := RetryPolicy{
			InitialInterval: time.Duration(initial), MaximumInterval: time.Duration(maximum),
			BackoffCoefficient: coefficient, MaximumAttempts: attempts,
		}
		delay := p.Delay(n)
		sensible := initial >= 0 && maximum >= 0 && coefficient >= 1
		if sensible && (delay < 0 || delay > p.MaximumInterval || n >= 1 && delay < min(p.InitialInterval, p.MaximumInterval)-initialError(initial)) {
			t.Errorf("%+v.Delay(%d) = %v", p, n, delay)
		}
		d := Decide(p, n, deadline, json.RawMessage(`{}`), now)
		over := deadline != nil && !now.Before(*deadline)
		usedUp := attempts > 0 && n >= attempts
		switch {
		case d.Retry && (over || usedUp || deadline != nil && !d.At.Before(*deadline)):
			t.Errorf("%+v, failure %d at %v, deadline %v: retried at %v", p, n, now, deadline, d.At)
		case d.Retry && sensible && d.At.Before(now):
			t.Errorf("%+v, failure %d at %v: retried before that, at %v", p, n, now, d.At)
		case !d.Retry && !d.At.Equal(now):
			t.Errorf("it failed at %v, not at %v", d.At, now)
		case over && DecodeError(d.Error).Message != DeadlineMessage:
			t.Errorf("past its deadline, it failed with %s", d.Error)
		}
	})
}

// initialError is by how much a float64 may be less than the interval that it stands for.
func initialError(interval int64) time.Duration { return time.Duration(interval >> 52) }

// FuzzColumns looks for the value of a JSON column, whoever wrote it, that a decoder does not
// survive or that it changes.
func FuzzColumns(f *testing.F) {
	for _, column := range []string{
		``, `null`, `{}`, `[]`, `1`, `"x"`, `{"message":"m","name":"n","stack":"s","nonRetryable":true}`, `{"message":1,"name":{}}`,
		`{"message":""}`, `{"message":"\u0000\ud800"}`, `{"kind":"sleep","resumeAt":"2027-01-02T03:04:05.000Z"}`, `{"kind":1,"signal":2,"timeoutAt":3}`,
		`{"kubernetes":{"cluster":"c","uid":"u","generation":1.5}}`, `{"kubernetes":[]}`, `{"traceContext":{"a":1}}`, "{\"message\":\"\xff\x00\"}",
		`{"MESSAGE":"m","message":null}`, strings.Repeat(`[`, 10_001),
	} {
		f.Add([]byte(column))
	}
	f.Fuzz(func(t *testing.T, column []byte) {
		if !utf8.Valid(column) {
			return // Postgres returns UTF-8
		}
		failure := DecodeError(column)
		encoded := failure.Encode()
		if stored := DecodeError(encoded); !json.Valid(encoded) || strings.Contains(stored.Message+stored.Name+stored.Stack, "\x00") {
			t.Errorf("the error %q is stored as %q, which Postgres refuses", column, encoded)
		}
		if again := DecodeError(encoded); json.Valid(column) && again.Message != strings.ReplaceAll(failure.Message, "\x00", "\ufffd") && failure.Message+failure.Name != "" {
			t.Errorf("the error %q is read as %q, and what that writes as %q", column, failure.Message, again.Message)
		}
		c := DecodeWaitContext(column)
		if again := DecodeWaitContext(c.Encode()); again.ResumeAt != c.ResumeAt || again.TimeoutAt != c.TimeoutAt || again.Kind != c.Kind {
			t.Errorf("the context %q is read as %+v, and what that writes as %+v", column, c, again)
		}
		if at, err := c.Until(); err == nil {
			checkTime(t, at)
		}
		run := Run{Context: column}
		if object := run.Object(); object != nil {
			run.Context = RunContext{Kubernetes: object}.Encode()
			if again := run.Object(); again == nil || *again != *object {
				t.Errorf("the object of %q is read as %+v, and what that writes as %+v", column, object, again)
			}
		}
		if kept := Column(column); kept == nil && json.Valid(column) && strings.TrimSpace(string(column)) != "null" {
			t.Errorf("the value %q is stored as NULL", column)
		}
	})
}

// FuzzNames looks for two things that get one name: steps of a run, keys, scopes, definitions.
func FuzzNames(f *testing.F) {
	f.Add("page\npage\npage:1\npage", "default", "wf", "key", "1")
	f.Add("\n\n:1\n", "", "", "", "")
	f.Add("a:1\na\na\na:1\na:1:1\na:01", `a","workflowName":"b`, `\`, "\x1f\u2028", "(version: 1)")
	f.Add("\x00\n\xff\n\xfe", "\xff", "\xfe", "\ud7ff", "\ufffd")
	f.Fuzz(func(t *testing.T, bases, namespace, workflow, key, version string) {
		checkNames(t, strings.Split(bases, "\n"))

		var scope map[string]string
		text := IdempotencyScope(namespace, workflow, key)
		if err := json.Unmarshal([]byte(text), &scope); err != nil || len(scope) != 3 || scope["namespaceId"] != valid(namespace) ||
			scope["workflowName"] != valid(workflow) || scope["idempotencyKey"] != valid(key) {
			t.Errorf("the scope of %q, %q, %q is %s", namespace, workflow, key, text)
		}
		if SignalKey("id", key) == SignalKey("id", version) && key != version || ChildKey(namespace, "id") == ChildKey(workflow, "id") && namespace != workflow {
			t.Errorf("%q and %q, or %q and %q have one key", key, version, namespace, workflow)
		}
		definitions := []Definition{{Name: workflow}, {Name: workflow, Version: &version}, {Name: key, Version: &version}, {Name: workflow, Version: &key}, {Name: key}}
		for i, a := range definitions {
			for _, b := range definitions[:i] {
				same := a.Name == b.Name && (a.Version == nil) == (b.Version == nil) && (a.Version == nil || *a.Version == *b.Version)
				if (a.Key() == b.Key()) != same {
					t.Errorf("the keys of %+v and %+v are equal: %v", a, b, !same)
				}
			}
		}
		c := Cursor{CreatedAt: time.UnixMilli(1e12), ID: key}
		if again, err := ParseCursor(c.String()); err != nil || again.ID != valid(key) {
			t.Errorf("the cursor of %q reads as %+v, %v", key, again, err)
		}
	})
}

// checkNames compares the names with R89's definition: the base if it is free, else the first
// free one of base:1, base:2, …
func checkNames(t *testing.T, bases []string) {
	t.Helper()
	const enough = 64 // the definition takes the cube of their number
	names, taken := NewNames(), []string{}
	for _, base := range bases[:min(enough, len(bases))] {
		want := base
		for i := 1; slices.Contains(taken, want); i++ {
			want = base + ":" + decimal(i)
		}
		if got := names.Resolve(base); got != want {
			t.Errorf("after %q, %q is named %q, want %q", taken, base, got, want)
		}
		taken = append(taken, want)
	}
}

func decimal(n int) string {
	encoded, err := json.Marshal(n)
	if err != nil { // a number always marshals
		panic(err)
	}
	return string(encoded)
}

// valid is a text as JavaScript has it: each byte that is no UTF-8 is U+FFFD.
func valid(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		b.WriteRune(r)
		s = s[size:]
	}
	return b.String()
}
