package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Question is the input of an agent, and Answer its output.
type (
	Question struct {
		Text string `json:"text"`
	}
	Answer struct {
		Text string `json:"text"`
		// Turns is the number of calls of the model.
		Turns int `json:"turns"`
	}
)

// Message is one message of the conversation: of the user, of the model, or the result of a
// tool.
type Message struct {
	// Role is user, model or tool.
	Role string `json:"role"`
	Text string `json:"text,omitempty"`
	// Calls are the calls of tools that the model asks for.
	Calls []Call `json:"calls,omitempty"`
	// CallID is the ID of the call that a tool's message answers.
	CallID string `json:"callID,omitempty"`
}

// Call is a call of a tool.
type Call struct {
	ID        string          `json:"id"`
	Tool      string          `json:"tool"`
	Arguments json.RawMessage `json:"arguments"`
}

// Model returns the next message of a conversation.
type Model interface {
	Next(ctx context.Context, conversation []Message) (Message, error)
}

// Tool is a function that the model can call. The model reads the text that it returns.
type Tool func(ctx context.Context, arguments json.RawMessage) (string, error)

// maxTurns limits the calls of the model in one run.
const maxTurns = 25

// Agent returns the workflow "agent". It calls the model, then the tools that the model asks
// for, those of one turn in parallel, and repeats this until the model answers.
//
// Each message of the model and each result of a tool is the result of a step. An agent that is
// interrupted in its twentieth turn continues with the same conversation, and calls neither
// the model nor a tool again for the turns before.
func Agent(model Model, tools map[string]Tool) *workflow.Workflow[Question, Answer] {
	return workflow.Define("agent", func(ctx context.Context, question Question) (Answer, error) {
		conversation := []Message{{Role: "user", Text: question.Text}}
		for turn := 1; turn <= maxTurns; turn++ {
			said, err := step.Run(ctx, "model", func(ctx context.Context) (Message, error) {
				return model.Next(ctx, conversation)
			}, step.MaxDuration(5*time.Minute))
			if err != nil {
				return Answer{}, err
			}
			conversation = append(conversation, said)
			if len(said.Calls) == 0 {
				return Answer{Text: said.Text, Turns: turn}, nil
			}
			results, err := call(ctx, tools, said.Calls)
			if err != nil {
				return Answer{}, err
			}
			conversation = append(conversation, results...)
		}
		return Answer{}, fmt.Errorf("no answer after %d turns", maxTurns)
	})
}

// call calls the tools of one turn and returns their results. If a tool fails after its last
// attempt, its result is the text of the error, and the model decides what to do.
func call(ctx context.Context, tools map[string]Tool, calls []Call) ([]Message, error) {
	running := make([]*step.Future[string], len(calls))
	for i, c := range calls {
		running[i] = step.Go(ctx, "tool "+c.Tool, func(ctx context.Context) (string, error) {
			tool, ok := tools[c.Tool]
			if !ok {
				return "", step.NonRetryable(fmt.Errorf("there is no tool %q", c.Tool))
			}
			return tool(ctx, c.Arguments)
		}, step.Retry(workflow.RetryPolicy{MaximumAttempts: 3}))
	}
	results := make([]Message, len(calls))
	for i, c := range calls {
		text, err := running[i].Await()
		if failed, ok := errors.AsType[*step.Error](err); ok {
			text, err = "error: "+failed.Message, nil
		}
		if err != nil {
			return nil, err
		}
		results[i] = Message{Role: "tool", CallID: c.ID, Text: text}
	}
	return results, nil
}
