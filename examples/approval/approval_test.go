package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

func TestApproval(t *testing.T) {
	t.Parallel()
	order := Order{OrderID: "o1", AmountCents: 200_00, Approver: "ann"}
	signal := approvalSignal(order.OrderID)
	yes := Answer{Approved: true, By: "ann"}
	for _, test := range []struct {
		intent string
		order  Order
		given  func(env *workflowtest.Env)
		want   Decision
		office []string
	}{{
		intent: "a small order is shipped at once",
		order:  Order{OrderID: "o1", AmountCents: 5_00},
		want:   Decision{OrderID: "o1", Status: "shipped"},
		office: []string{"ship o1"},
	}, {
		intent: "an approved one is shipped",
		order:  order,
		given:  func(env *workflowtest.Env) { env.SignalAfter(time.Hour, signal, yes) },
		want:   Decision{OrderID: "o1", Status: "shipped", By: "ann"},
		office: []string{"ask ann", "ship o1"},
	}, {
		intent: "a rejected one is not",
		order:  order,
		given:  func(env *workflowtest.Env) { env.SignalAfter(time.Hour, signal, Answer{By: "ann"}) },
		want:   Decision{OrderID: "o1", Status: "rejected", By: "ann"},
		office: []string{"ask ann"},
	}, {
		intent: "the approver is reminded",
		order:  order,
		given:  func(env *workflowtest.Env) { env.SignalAfter(30*time.Hour, signal, yes) },
		want:   Decision{OrderID: "o1", Status: "shipped", By: "ann"},
		office: []string{"ask ann", "remind ann", "ship o1"},
	}, {
		intent: "nobody answers",
		order:  order,
		want:   Decision{OrderID: "o1", Status: "expired"},
		office: []string{"ask ann", "remind ann"},
	}, {
		intent: "the warehouse does not answer at first",
		order:  Order{OrderID: "o1", AmountCents: 5_00},
		given:  func(env *workflowtest.Env) { env.FailStep("ship", errors.New("no answer")) },
		want:   Decision{OrderID: "o1", Status: "shipped"},
		office: []string{"ship o1"},
	}} {
		t.Run(test.intent, func(t *testing.T) {
			t.Parallel()
			office := &office{}
			approval := Approval(office)
			env := workflowtest.New(t, approval)
			if test.given != nil {
				test.given(env)
			}
			got, err := workflowtest.Start(env, approval, test.order).Result()
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v; want %+v", got, err, test.want)
			}
			if diff := cmp.Diff(test.office, office.seen()); diff != "" {
				t.Errorf("what the office did (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever crashes at whichever point, the order ends the same way.
func TestApprovalSurvivesCrashes(t *testing.T) {
	t.Parallel()
	approval := Approval(&office{})
	workflowtest.CrashEverywhere(t, func(env *workflowtest.Env) {
		order := Order{OrderID: "o1", AmountCents: 200_00, Approver: "ann"}
		env.Signal(approvalSignal(order.OrderID), Answer{Approved: true, By: "ann"})
		if got, err := workflowtest.Start(env, approval, order).Result(); err != nil || got.Status != "shipped" {
			t.Errorf("got %+v, %v", got, err)
		}
	}, approval)
}

// office remembers what it did. It does one thing for one key.
type office struct {
	mu   sync.Mutex
	keys []string
	did  []string
}

func (o *office) do(key, what string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Contains(o.keys, key) {
		o.keys, o.did = append(o.keys, key), append(o.did, what)
	}
	return nil
}

func (o *office) seen() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.did)
}

func (o *office) Ask(_ context.Context, key string, order Order, reminder bool) error {
	verb := "ask"
	if reminder {
		verb = "remind"
	}
	return o.do(key, verb+" "+order.Approver)
}

func (o *office) Ship(_ context.Context, key string, order Order) error {
	return o.do(key, "ship "+order.OrderID)
}
