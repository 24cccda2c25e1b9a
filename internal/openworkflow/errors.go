package openworkflow

import (
	"encoding/json"
	"strings"
)

// Error is the error column of runs and step attempts (R120).
type Error struct {
	Name    string `json:"name,omitempty"`
	Message string `json:"message"`
	Stack   string `json:"stack,omitempty"`
	// NonRetryable is a member of ours. It says that the step is not tried again although its
	// policy would allow it.
	NonRetryable bool `json:"nonRetryable,omitempty"`
}

// Encode returns the column's JSON. It replaces U+0000 by U+FFFD: Postgres cannot store U+0000
// in jsonb (R23), and an error must be storable whatever its text.
func (e Error) Encode() json.RawMessage {
	clean := strings.NewReplacer("\x00", "\uFFFD")
	b, err := json.Marshal(Error{
		Name:    clean.Replace(e.Name),
		Message: clean.Replace(e.Message),
		Stack:   clean.Replace(e.Stack),

		NonRetryable: e.NonRetryable,
	})
	if err != nil { // strings always marshal
		panic(err)
	}
	return b
}

// DecodeError reads an error column of any writer. A value without a text message becomes an
// Error whose message is the JSON itself (R121).
func DecodeError(raw json.RawMessage) Error {
	var e Error
	if err := json.Unmarshal(raw, &e); err != nil || e.Message == "" && e.Name == "" {
		return Error{Message: string(raw)}
	}
	return e
}

// StepFailure is the text of the error that a workflow of ours gets from a step that has failed. An
// error that wraps it contains the text.
func StepFailure(step, message string) string {
	name, err := json.Marshal(step)
	if err != nil { // a string always marshals
		panic(err)
	}
	return "step " + string(name) + " failed: " + message
}

// Messages that are part of the format.
const (
	// DeadlineMessage is the error of a run that passed its deadline (R44, R100).
	DeadlineMessage = "Workflow run deadline exceeded"
	// StepLimitName is the error name of a run with too many step attempts (R110).
	StepLimitName = "StepLimitExceededError"
)
