package openworkflow

import (
	"cmp"
	"encoding/json"
	"time"
)

// WaitContext is the context column of a step attempt that waits (R25).
type WaitContext struct {
	Kind StepKind `json:"kind"`
	// Signal is the signal that a KindSignalWait waits for, nil for other kinds.
	Signal *string `json:"signal,omitempty"`
	// ResumeAt is when a KindSleep is over, TimeoutAt when a wait of another kind times
	// out. Both are dates as FormatTime writes them; the other one is empty.
	ResumeAt  string `json:"resumeAt,omitempty"`
	TimeoutAt string `json:"timeoutAt,omitempty"`
}

// Encode returns the column's JSON.
func (c WaitContext) Encode() json.RawMessage {
	b, err := json.Marshal(c)
	if err != nil { // texts always marshal
		panic(err)
	}
	return b
}

// DecodeWaitContext reads the column, whoever wrote it. What is missing, or of another
// type, is left empty.
func DecodeWaitContext(raw json.RawMessage) WaitContext {
	var c WaitContext
	_ = json.Unmarshal(raw, &c) // skips members of another type
	return c
}

// Until returns when the wait ends by itself. It returns an error for a date that is
// missing or that cannot be read.
func (c WaitContext) Until() (time.Time, error) {
	return ParseTime(cmp.Or(c.ResumeAt, c.TimeoutAt))
}
