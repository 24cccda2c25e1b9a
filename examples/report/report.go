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
	// Day is the day to report on, for example 2026-01-31.
	Day string `json:"day"`
}

// Report is the output of a nightly report.
type Report struct {
	Day          string `json:"day"`
	RevenueCents int64  `json:"revenueCents"`
	Orders       int    `json:"orders"`
	// Missing lists the shops whose run failed or did not end in time.
	Missing []string `json:"missing,omitempty"`
}

// ShopDay is the input of a shop report, and ShopTotal its output.
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

// Books is the source of the numbers and the target of the report.
type Books interface {
	Shops(ctx context.Context, day string) ([]string, error)
	Orders(ctx context.Context, shop, day string) ([]string, error)
	// Revenue returns the revenue of an order, less refunds.
	Revenue(ctx context.Context, order string) (cents int64, err error)
	Publish(ctx context.Context, report Report) error
}

const (
	parallelOrders = 8         // orders of a shop that are read at the same time
	shopTimeout    = time.Hour // how long the report waits for a shop
)

// Workflows returns "nightly-report" and "shop-report". The first starts one child run of the
// second for each shop. All workers of the pool execute the children in parallel; each child
// has its own retries, steps and step limit. If a child fails, the report lists its shop as
// missing.
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
