package openworkflow

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWaitContext_R25(t *testing.T) {
	until := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := []struct {
		name, column string
		want         WaitContext
		until        time.Time
	}{
		{"sleep", `{"kind":"sleep","resumeAt":"2027-01-02T03:04:05.000Z"}`,
			WaitContext{Kind: KindSleep, ResumeAt: "2027-01-02T03:04:05.000Z"}, until},
		{"child", `{"kind":"workflow","timeoutAt":"2027-01-02T03:04:05.000Z"}`,
			WaitContext{Kind: KindWorkflow, TimeoutAt: "2027-01-02T03:04:05.000Z"}, until},
		{"signal", `{"kind":"signal-wait","signal":"go","timeoutAt":"2027-01-02T03:04:05.000Z"}`,
			WaitContext{Kind: KindSignalWait, Signal: new("go"), TimeoutAt: "2027-01-02T03:04:05.000Z"}, until},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := DecodeWaitContext(json.RawMessage(test.column))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
			if at, err := got.Until(); err != nil || !at.Equal(test.until) {
				t.Errorf("Until() = %v, %v, want %v", at, err, test.until)
			}
			if encoded := string(got.Encode()); encoded != test.column {
				t.Errorf("encoded as %s, want %s", encoded, test.column)
			}
		})
	}
}

func TestDecodeWaitContextLeavesOutWhatItCannotRead(t *testing.T) {
	for name, column := range map[string]string{
		"nothing": ``, "null": `null`, "scalar": `1`, "no date": `{"kind":"sleep"}`, "number": `{"kind":"sleep","resumeAt":1}`,
		"no such date": `{"kind":"sleep","resumeAt":"soon"}`,
	} {
		t.Run(name, func(t *testing.T) {
			c := DecodeWaitContext(json.RawMessage(column))
			if at, err := c.Until(); err == nil {
				t.Errorf("Until() = %v", at)
			}
			if c.Signal != nil {
				t.Errorf("it waits for signal %q", *c.Signal)
			}
		})
	}
}
