package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/openworkflow-operator/operator/step"
	"github.com/openworkflow-operator/operator/workflow"
)

// Night is the input of a nightly report.
type Night struct {
	// Day is the day to report on, as 2026-01-31.
	Day string `json:"day"`
}

// Report is its output.
type Report struct {
	Day          string `json:"day"`
	RevenueCents int64  `json:"revenueCents"`
	Orders       int    `json:"orders"`
	// Missing are the shops whose numbers could not be had.
	Missing []string `json:"missing,omitempty"`
}

// ShopDay is the input of a shop's part of the report, and ShopTotal its output.
type (
	ShopDay struct {
		Shop string `json:"shop"`
		Day  string `json:"day"`
	}
	ShopTotal struct {
		RevenueCents int64 `json:"revenueCents"`
		Orders       int   `json:"orders"`
	}
)

// Books is where the numbers come from and the report goes to.
type Books interface {
	Shops(ctx context.Context, day string) ([]string, error)
	Orders(ctx context.Context, shop, day string) ([]string, error)
	// Revenue is what an order has brought, after refunds.
	Revenue(ctx context.Context, order string) (cents int64, err error)
	Publish(ctx context.Context, report Report) error
}

const (
	parallelOrders = 8         // orders of a shop that are looked up at a time
	shopTimeout    = time.Hour // how long the report waits for a shop
)

// Workflows returns "nightly-report" and "shop-report". The first has one run of the
// second for each shop; these are executed in parallel, by all workers there are, and
// each has retries, steps and a step limit of its own. A shop that fails does not spoil the
// report: it is named as missing.
func Workflows(books Books) (*workflow.Workflow[Night, Report], *workflow.Workflow[ShopDay, ShopTotal]) {
	shopReport := workflow.Define("shop-report", func(ctx context.Context, in ShopDay) (ShopTotal, error) {
		orders, err := step.Run(ctx, "orders", func(ctx context.Context) ([]string, error) {
			return books.Orders(ctx, in.Shop, in.Day)
		})
		if err != nil {
			return ShopTotal{}, err
		}
		revenues, err := step.Map(ctx, "revenue", orders, parallelOrders, books.Revenue)
		if err != nil {
			return ShopTotal{}, err
		}
		total := ShopTotal{Orders: len(orders)}
		for _, cents := range revenues {
			total.RevenueCents += cents
		}
		return total, nil
	})

	report := workflow.Define("nightly-report", func(ctx context.Context, night Night) (Report, error) {
		report := Report{Day: night.Day}
		shops, err := step.Run(ctx, "shops", func(ctx context.Context) ([]string, error) {
			return books.Shops(ctx, night.Day)
		})
		if err != nil {
			return report, err
		}
		totals := make([]*step.Future[ShopTotal], len(shops))
		for i, shop := range shops {
			totals[i] = step.GoWorkflow(ctx, shopReport, ShopDay{Shop: shop, Day: night.Day},
				step.Name("shop "+shop), step.Timeout(shopTimeout))
		}
		for i, shop := range shops {
			total, err := totals[i].Await()
			if _, failed := errors.AsType[*step.Error](err); failed {
				report.Missing = append(report.Missing, shop)
				continue
			}
			if err != nil {
				return report, fmt.Errorf("shop %s: %w", shop, err)
			}
			report.RevenueCents += total.RevenueCents
			report.Orders += total.Orders
		}
		_, err = step.Run(ctx, "publish", func(ctx context.Context) (any, error) {
			return nil, books.Publish(ctx, report)
		})
		return report, err
	})
	return report, shopReport
}
