package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

var trip = Trip{Traveler: "ada", City: "Venice", Nights: 3}

func TestBookingOfAWholeTrip(t *testing.T) {
	t.Parallel()
	agency := newAgency()
	booking := Booking(agency)
	env := workflowtest.New(t, booking)
	env.FailStep("book-hotel", errors.New("no answer"), errors.New("no answer"))
	got, err := workflowtest.Start(env, booking, trip).Result()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Itinerary{"flight": "flight of ada", "hotel": "hotel of ada", "car": "car of ada"}, got); diff != "" {
		t.Errorf("itinerary (-want +got):\n%s", diff)
	}
}

func TestBookingIsTakenBackWhenAPartOfItFails(t *testing.T) {
	t.Parallel()
	agency := newAgency()
	agency.refuse = "car"
	booking := Booking(agency)
	env := workflowtest.New(t, booking)
	env.FailStep("cancel-hotel", errors.New("no answer"))
	run := workflowtest.Start(env, booking, trip)
	_, err := run.Result()
	if err == nil || !strings.Contains(err.Error(), "no car for ada in Venice") {
		t.Errorf("error is %v", err)
	}
	if len(agency.booked) != 0 {
		t.Errorf("still booked: %v", agency.booked)
	}
	var ended []string
	for _, s := range run.Steps() {
		ended = append(ended, s.Name+" "+s.Status)
	}
	want := []string{
		"book-flight completed", "book-hotel completed", "book-car failed",
		"cancel-car completed", "cancel-hotel failed", "cancel-hotel completed", "cancel-flight completed",
	}
	if diff := cmp.Diff(want, ended); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

// A worker that dies between any two writes leaves neither a half trip nor two.
func TestBookingSurvivesCrashes(t *testing.T) {
	t.Parallel()
	for _, refuse := range []string{"", "hotel"} {
		t.Run("refuse "+refuse, func(t *testing.T) {
			t.Parallel()
			agency := newAgency()
			agency.refuse = refuse
			booking := Booking(agency)
			runs := 0
			workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) {
				runs++
				_, _ = workflowtest.Start(env, booking, trip).Result()
			}, booking)
			want := 3 * runs
			if refuse != "" {
				want = 0
			}
			if len(agency.booked) != want {
				t.Errorf("%d bookings after %d runs, want %d", len(agency.booked), runs, want)
			}
		})
	}
}

// agency keeps its bookings in memory.
type agency struct {
	refuse string

	mu     sync.Mutex
	booked map[string]string // by key
}

func newAgency() *agency { return &agency{booked: map[string]string{}} }

func (a *agency) Book(_ context.Context, what, key string, trip Trip) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if what == a.refuse {
		return "", step.NonRetryable(errors.New("sold out"))
	}
	a.booked[key] = what + " of " + trip.Traveler
	return a.booked[key], nil
}

func (a *agency) Cancel(_ context.Context, _, key string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.booked, key)
	return nil
}
