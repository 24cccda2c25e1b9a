package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
	"github.com/openworkflow-operator/operator/workflow/workflowtest"
)

func TestReportAddsUpAllShops(t *testing.T) {
	t.Parallel()
	books := &ledger{shops: []string{"a", "b", "c"}}
	report, shopReport := Workflows(books)
	env := workflowtest.New(t, report, shopReport)
	env.FailStep("revenue:3", errors.New("try again")) // one order of each shop

	got, err := workflowtest.Start(env, report, Night{Day: "2026-01-31"}).Result()
	if err != nil {
		t.Fatal(err)
	}
	want := Report{Day: "2026-01-31", RevenueCents: 3 * ordersPerShop * cents, Orders: 3 * ordersPerShop}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]Report{want}, books.published); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
}

func TestReportNamesTheShopsThatFail(t *testing.T) {
	t.Parallel()
	books := &ledger{shops: []string{"a", "b", "c"}, closed: "b"}
	report, shopReport := Workflows(books)
	env := workflowtest.New(t, report, shopReport)
	got, err := workflowtest.Start(env, report, Night{Day: "2026-01-31"}).Result()
	if err != nil {
		t.Fatal(err)
	}
	want := Report{Day: "2026-01-31", RevenueCents: 2 * ordersPerShop * cents, Orders: 2 * ordersPerShop, Missing: []string{"b"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// A shop that does not answer at all is missing after an hour.
func TestReportDoesNotWaitForEver(t *testing.T) {
	t.Parallel()
	books := &ledger{shops: []string{"a"}}
	report, _ := Workflows(books)
	stuck := workflow.Define("shop-report", func(ctx context.Context, _ ShopDay) (ShopTotal, error) {
		_, _, err := step.WaitForSignal[any](ctx, "never")
		return ShopTotal{}, err
	})
	env := workflowtest.New(t, report, stuck)
	got, err := workflowtest.Start(env, report, Night{Day: "2026-01-31"}).Result()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Report{Day: "2026-01-31", Missing: []string{"a"}}, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

const (
	ordersPerShop = 20
	cents         = 7
)

// ledger are books in memory.
type ledger struct {
	shops  []string
	closed string // the shop that has no orders to show

	mu        sync.Mutex
	published []Report
}

func (l *ledger) Shops(context.Context, string) ([]string, error) { return l.shops, nil }

func (l *ledger) Orders(_ context.Context, shop, _ string) ([]string, error) {
	if shop == l.closed {
		return nil, step.NonRetryable(fmt.Errorf("shop %s is closed", shop))
	}
	return make([]string, ordersPerShop), nil
}

func (l *ledger) Revenue(context.Context, string) (int64, error) { return cents, nil }

func (l *ledger) Publish(_ context.Context, report Report) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published = append(l.published, report)
	return nil
}
