package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Trip is the input of a booking.
type Trip struct {
	Traveler string `json:"traveler"`
	City     string `json:"city"`
	Nights   int    `json:"nights"`
}

// Itinerary is the output of a booking: the booking numbers by "flight", "hotel" and "car".
type Itinerary map[string]string

// Agency makes and cancels bookings. A key identifies one booking: Book with the same key returns
// the same number, and Cancel of a key that was never booked does nothing.
type Agency interface {
	Book(ctx context.Context, what, key string, trip Trip) (number string, err error)
	Cancel(ctx context.Context, what, key string) error
}

// Booking returns the workflow "booking", a saga: it books a flight, a hotel and a car one after
// the other. If one of them fails, it cancels the bookings in reverse order.
func Booking(agency Agency) *workflow.Workflow[Trip, Itinerary] {
	return workflow.Define("booking", func(ctx context.Context, trip Trip) (Itinerary, error) {
		itinerary := Itinerary{}
		var attempted []string
		for _, what := range []string{"flight", "hotel", "car"} {
			// A booking that failed may still exist, if only its answer was lost. So it is
			// canceled too.
			attempted = append(attempted, what)
			number, err := book(ctx, agency, what, trip)
			if err != nil {
				err = fmt.Errorf("no %s for %s in %s: %w", what, trip.Traveler, trip.City, err)
				return nil, errors.Join(err, cancelAll(ctx, agency, attempted))
			}
			itinerary[what] = number
		}
		return itinerary, nil
	})
}

func book(ctx context.Context, agency Agency, what string, trip Trip) (string, error) {
	return step.Run(ctx, "book-"+what, func(ctx context.Context) (string, error) {
		return agency.Book(ctx, what, key(ctx, what), trip)
	}, step.Retry(workflow.RetryPolicy{MaximumAttempts: 4}))
}

// cancelAll cancels the attempted bookings in reverse order. It retries each without limit,
// because half a trip must not be paid for.
func cancelAll(ctx context.Context, agency Agency, attempted []string) error {
	var failures []error
	for _, what := range slices.Backward(attempted) {
		_, err := step.Run(ctx, "cancel-"+what, func(ctx context.Context) (any, error) {
			return nil, agency.Cancel(ctx, what, key(ctx, what))
		}, step.Retry(workflow.RetryPolicy{MaximumAttempts: workflow.Unlimited, MaximumInterval: time.Hour}))
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// key returns the key of a booking of this run. It is the same at each attempt.
func key(ctx context.Context, what string) string { return workflow.Info(ctx).ID + "/" + what }
