// Command report is a worker for a nightly report: one child run for each shop, all in parallel,
// and in each child a limited fan-out over the orders of the shop.
package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"

	"github.com/openworkflow-operator/operator/worker"
)

func main() {
	report, shopReport := Workflows(madeUp{})
	worker.Main(report, shopReport)
}

// madeUp is a fake of Books with plausible numbers.
type madeUp struct{}

func (madeUp) Shops(context.Context, string) ([]string, error) {
	return []string{"amsterdam", "berlin", "copenhagen", "dublin"}, nil
}

func (madeUp) Orders(_ context.Context, shop, day string) ([]string, error) {
	orders := make([]string, 10+number(shop+day)%20)
	for i := range orders {
		orders[i] = fmt.Sprintf("%s-%s-%d", shop, day, i+1)
	}
	return orders, nil
}

func (madeUp) Revenue(_ context.Context, order string) (int64, error) {
	return int64(number(order) % 100_00), nil
}

func (madeUp) Publish(_ context.Context, report Report) error {
	slog.Info("Published the report", "day", report.Day, "revenueCents", report.RevenueCents, "orders", report.Orders, "missing", report.Missing)
	return nil
}

// number returns a hash of a text.
func number(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text))
	return h.Sum32()
}
