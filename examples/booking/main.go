// Command booking is a worker with one workflow, a saga: it books a whole trip or nothing.
//
// Its agency is a fake, which has no cars in Venice.
package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/worker"
)

func main() { worker.Main(Booking(madeUp{})) }

type madeUp struct{}

func (madeUp) Book(_ context.Context, what, key string, trip Trip) (string, error) {
	if what == "car" && trip.City == "Venice" {
		return "", step.NonRetryable(fmt.Errorf("there are no cars in %s", trip.City))
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	number := fmt.Sprintf("%08X", h.Sum32())
	slog.Info("Booked", "what", what, "number", number, "traveler", trip.Traveler)
	return number, nil
}

func (madeUp) Cancel(_ context.Context, what, key string) error {
	slog.Info("Canceled", "what", what, "key", key)
	return nil
}
