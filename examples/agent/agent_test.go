package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

func TestAgentCallsToolsUntilItKnows(t *testing.T) {
	t.Parallel()
	agent := Agent(adder{}, map[string]Tool{"add": add})
	env := workflowtest.New(t, agent)
	run := workflowtest.Start(env, agent, Question{Text: "How much are 1, 2, 3, 4 and 5?"})
	got, err := run.Result()
	if err != nil || got != (Answer{Text: "15", Turns: 4}) {
		t.Errorf("got %+v, %v", got, err)
	}
	var steps []string
	for _, s := range run.Steps() {
		steps = append(steps, s.Name)
	}
	if n := len(steps); n != 4+2+1+1 || steps[0] != "model" {
		t.Errorf("steps are %q", steps)
	}
}

// The messages of the model are stored: an interrupted agent continues with the same
// conversation, although this model never answers the same twice.
func TestAgentGoesOnWithTheConversationItHad(t *testing.T) {
	t.Parallel()
	model := &script{}
	agent := Agent(model, map[string]Tool{"add": add})
	env := workflowtest.New(t, agent)
	model.says = []Message{
		{Role: "model", Calls: []Call{{ID: "1", Tool: "add", Arguments: json.RawMessage(`[1,2]`)}}},
		{Role: "model", Text: "three"},
	}
	env.CrashAfter("model")
	env.CrashAfter("tool add")
	got, err := workflowtest.Start(env, agent, Question{Text: "1+2"}).Result()
	if err != nil || got.Text != "three" {
		t.Errorf("got %+v, %v", got, err)
	}
	if len(model.heard) != 2 {
		t.Errorf("the model was asked %d times, want 2", len(model.heard))
	}
}

// The model gets the error of a tool that has no attempts left.
func TestAgentTellsTheModelOfFailures(t *testing.T) {
	t.Parallel()
	model := &script{says: []Message{
		{Role: "model", Calls: []Call{
			{ID: "1", Tool: "guess", Arguments: json.RawMessage(`{}`)},
			{ID: "2", Tool: "weather", Arguments: json.RawMessage(`{}`)},
			{ID: "3", Tool: "add", Arguments: json.RawMessage(`"x"`)},
		}},
		{Role: "model", Text: "I give up"},
	}}
	agent := Agent(model, map[string]Tool{
		"add":     add,
		"weather": func(context.Context, json.RawMessage) (string, error) { return "", errors.New("no answer") },
	})
	env := workflowtest.New(t, agent)
	if _, err := workflowtest.Start(env, agent, Question{Text: "?"}).Result(); err != nil {
		t.Fatal(err)
	}
	var heard []string
	for _, m := range model.heard[1][2:] {
		text, _, _ := strings.Cut(strings.TrimPrefix(m.Text, "error: "), ":")
		heard = append(heard, m.CallID+" "+text)
	}
	want := []string{`1 there is no tool "guess"`, "2 no answer", "3 add takes a list of whole numbers"}
	if diff := cmp.Diff(want, heard); diff != "" {
		t.Errorf("the model heard (-want +got):\n%s", diff)
	}
}

func TestAgentThatFindsNoEndIsStopped(t *testing.T) {
	t.Parallel()
	model := &script{}
	for range maxTurns {
		model.says = append(model.says, Message{Role: "model", Calls: []Call{{Tool: "add", Arguments: json.RawMessage(`[1]`)}}})
	}
	agent := Agent(model, map[string]Tool{"add": add})
	env := workflowtest.New(t, agent)
	if got, err := workflowtest.Start(env, agent, Question{}).Result(); err == nil {
		t.Errorf("got %+v", got)
	}
}

// script is a model that says what is written, each line once.
type script struct {
	says []Message

	mu    sync.Mutex
	heard [][]Message
}

func (s *script) Next(_ context.Context, conversation []Message) (Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.heard) == len(s.says) {
		return Message{}, errors.New("the script is over")
	}
	s.heard = append(s.heard, conversation)
	return s.says[len(s.heard)-1], nil
}
