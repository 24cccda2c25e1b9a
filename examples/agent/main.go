// Command agent is a worker with one workflow: a model that calls tools in a durable loop until
// it knows the answer.
//
// The model is a fake that needs no network. It adds up the numbers in a question, two at a
// time, with a tool. Replace it by a client of a real model.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/worker"
)

func main() {
	worker.Main(Agent(adder{}, map[string]Tool{"add": add}))
}

// adder is a model that asks for sums of pairs of numbers until one number is left.
type adder struct{}

var number = regexp.MustCompile(`-?\d+`)

func (adder) Next(_ context.Context, conversation []Message) (Message, error) {
	// In the first turn these are the numbers of the question, later the sums of the last
	// turn and the number that had no partner in it.
	var open []string
	for _, m := range conversation {
		switch m.Role {
		case "model":
			open = number.FindAllString(m.Text, -1)
		default:
			open = append(open, number.FindAllString(m.Text, -1)...)
		}
	}
	switch len(open) {
	case 0:
		return Message{}, step.NonRetryable(errors.New("there is no number in the question"))
	case 1:
		return Message{Role: "model", Text: open[0]}, nil
	}
	said := Message{Role: "model"}
	for i := 0; i+1 < len(open); i += 2 {
		said.Calls = append(said.Calls, Call{
			ID:        fmt.Sprintf("%d-%d", len(conversation), i/2),
			Tool:      "add",
			Arguments: json.RawMessage("[" + open[i] + "," + open[i+1] + "]"),
		})
	}
	if len(open)%2 == 1 {
		said.Text = "still to be added: " + open[len(open)-1]
	}
	return said, nil
}

// add is a tool that adds up numbers.
func add(_ context.Context, arguments json.RawMessage) (string, error) {
	var numbers []int
	if err := json.Unmarshal(arguments, &numbers); err != nil {
		return "", step.NonRetryable(fmt.Errorf("add takes a list of whole numbers: %w", err))
	}
	sum := 0
	for _, n := range numbers {
		sum += n
	}
	return strconv.Itoa(sum), nil
}
