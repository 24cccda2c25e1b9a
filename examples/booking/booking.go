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

// Itinerary is its output: the numbers of what was booked, by what it is.
type Itinerary map[string]string

// Agency books and cancels. A key stands for one booking: to book it again returns the
// same number, and to cancel what was never booked does nothing.
type Agency interface {
	Book(ctx context.Context, what, key string, trip Trip) (number string, err error)
	Cancel(ctx context.Context, what, key string) error
}

// Booking returns the workflow "booking", a saga: flight, hotel and car are booked one
// after the other, and when one of them cannot be had, what was booked before it is
// canceled again, last things first.
func Booking(agency Agency) *workflow.Workflow[Trip, Itinerary] {
	return workflow.Define("booking", func(ctx context.Context, trip Trip) (Itinerary, error) {
		itinerary := Itinerary{}
		var attempted []string
		for _, what := range []string{"flight", "hotel", "car"} {
			// A booking that fails for good may have happened all the same, when only the
			// answer was lost. So it is canceled as well.
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

// cancelAll takes back what was attempted. Nobody wants to pay for half a trip, so it tries
// for as long as it takes.
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

// key is the same at each attempt of booking and canceling a thing for this run.
func key(ctx context.Context, what string) string { return workflow.Info(ctx).ID + "/" + what }
