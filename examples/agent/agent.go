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
		// Turns is how often the model was asked.
		Turns int `json:"turns"`
	}
)

// Message is a part of the conversation: what the user asked, what the model said, or what
// a tool has returned.
type Message struct {
	// Role is user, model or tool.
	Role string `json:"role"`
	Text string `json:"text,omitempty"`
	// Calls are the tools that the model wants to be called before it goes on.
	Calls []Call `json:"calls,omitempty"`
	// CallID says which call a tool's message is the result of.
	CallID string `json:"callID,omitempty"`
}

// Call is a call of a tool.
type Call struct {
	ID        string          `json:"id"`
	Tool      string          `json:"tool"`
	Arguments json.RawMessage `json:"arguments"`
}

// Model says what comes next in a conversation.
type Model interface {
	Next(ctx context.Context, conversation []Message) (Message, error)
}

// Tool does something for the model. What it returns is text for the model to read.
type Tool func(ctx context.Context, arguments json.RawMessage) (string, error)

// maxTurns bounds an agent that finds no end.
const maxTurns = 25

// Agent returns the workflow "agent": it asks the model, calls the tools that the model
// asks for, all of one turn in parallel, and goes on until the model answers.
//
// Each answer of the model and each result of a tool is stored. So an agent that is
// interrupted in its twentieth turn asks the model nothing again, and goes on with the
// same conversation, although the model would not say the same again.
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

// call calls tools and returns what they say. A tool that fails for good tells the
// model so, which may know another way.
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
