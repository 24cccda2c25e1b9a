package dryrun

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Request is what a worker reads from its environment.
type Request struct {
	// RunID is the run to fork.
	RunID string `json:"runID"`
	// Step, LastFailed, RestartChildren and Outputs are those of a fork.
	Step            *string                    `json:"step,omitempty"`
	LastFailed      bool                       `json:"lastFailed,omitempty"`
	RestartChildren bool                       `json:"restartChildren,omitempty"`
	Outputs         map[string]json.RawMessage `json:"outputs,omitempty"`
	// Input, not nil, is another input.
	Input json.RawMessage `json:"input,omitempty"`
}

// ParseRequest reads a request.
func ParseRequest(text string) (Request, error) {
	var r Request
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return r, fmt.Errorf("the request is not one of a dry run: %w", err)
	}
	if r.RunID == "" {
		return r, errors.New("the request names no run")
	}
	return r, nil
}

// Step is a step that a fork executes.
type Step struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
}

// Result is what a worker answers. It has no payloads: it is written into the status of a pod.
type Result struct {
	RunID    string `json:"runID"`
	Workflow string `json:"workflow,omitempty"`
	Version  string `json:"version,omitempty"`
	// Kept is the number of steps whose stored results the workflow gets, in the order of its calls.
	// LastKept are the names of the last of them.
	Kept     int      `json:"kept"`
	LastKept []string `json:"lastKept,omitempty"`
	// Next are the steps that it executes then. More counts those that are left out here.
	Next     []Step `json:"next,omitempty"`
	NextMore int    `json:"nextMore,omitempty"`
	// NotAsked are steps with stored results that it does not ask for before it waits for those of
	// Next: the code has changed, or is parallel.
	NotAsked     []string `json:"notAsked,omitempty"`
	NotAskedMore int      `json:"notAskedMore,omitempty"`
	// OtherKind are steps whose stored result is of another kind than what the workflow asks for.
	OtherKind     []string `json:"otherKind,omitempty"`
	OtherKindMore int      `json:"otherKindMore,omitempty"`
	// Ended says that the workflow ends without another step, and ErrorName that it fails.
	Ended     bool   `json:"ended,omitempty"`
	ErrorName string `json:"errorName,omitempty"`
	// Problem says why there is no result.
	Problem string `json:"problem,omitempty"`
}

const (
	// maxListed bounds the names of each list of a Result, and maxText each text, in bytes.
	maxListed, maxText = 10, 200
)

// Report is what a replay has found out, in the order of the workflow's calls.
type Report struct {
	Kept                []string
	Next                []Step
	NotAsked, OtherKind []string
	Ended               bool
	ErrorName           string
}

// NewResult returns the result for a report about a run.
func NewResult(runID, workflow, version string, report *Report) Result {
	result := Result{
		RunID: runID, Workflow: cut(workflow), Version: cut(version), Kept: len(report.Kept), Ended: report.Ended, ErrorName: cut(report.ErrorName),
	}
	for _, name := range report.Kept[max(0, len(report.Kept)-maxListed):] {
		result.LastKept = append(result.LastKept, cut(name))
	}
	for _, step := range report.Next {
		if len(result.Next) == maxListed {
			result.NextMore++
			continue
		}
		result.Next = append(result.Next, Step{Name: cut(step.Name), Kind: step.Kind})
	}
	result.NotAsked, result.NotAskedMore = first(report.NotAsked)
	result.OtherKind, result.OtherKindMore = first(report.OtherKind)
	return result
}

// first returns the first names, and how many follow them.
func first(all []string) (names []string, more int) {
	for _, name := range all[:min(len(all), maxListed)] {
		names = append(names, cut(name))
	}
	return names, len(all) - len(names)
}

// cut returns the beginning of a name.
func cut(text string) string { return cutTo(text, maxText) }

// maxEncoded is the length of the message with which a container ends, in bytes: Kubernetes keeps
// no more of it.
const maxEncoded = 4096

// Encode returns the result as JSON that fits into the message with which a container ends. Of
// lists that are too long it leaves out names, and counts them.
func (r Result) Encode() []byte {
	r.Problem = cutTo(r.Problem, maxProblem)
	r.RunID = cut(r.RunID)
	for {
		var encoded bytes.Buffer
		encoder := json.NewEncoder(&encoded)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(r); err != nil { // texts and numbers always can be
			panic(err)
		}
		if encoded.Len() <= maxEncoded || !r.shorten() {
			return bytes.TrimSpace(encoded.Bytes())
		}
	}
}

// maxProblem bounds the text of a problem, in bytes.
const maxProblem = 1000

// shorten leaves out a name of the longest list, and reports whether there was one.
func (r *Result) shorten() bool {
	switch longest := max(len(r.LastKept), len(r.Next), len(r.NotAsked), len(r.OtherKind)); longest {
	case 0:
		return false
	case len(r.LastKept):
		r.LastKept = r.LastKept[1:]
	case len(r.NotAsked):
		r.NotAsked, r.NotAskedMore = r.NotAsked[:longest-1], r.NotAskedMore+1
	case len(r.OtherKind):
		r.OtherKind, r.OtherKindMore = r.OtherKind[:longest-1], r.OtherKindMore+1
	default:
		r.Next, r.NextMore = r.Next[:longest-1], r.NextMore+1
	}
	return true
}

// cutTo returns the beginning of a text as valid UTF-8, without control characters.
func cutTo(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit] + "…"
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
}
