package dataapi

import (
	"fmt"
	"net/url"
	"strconv"

	"k8s.io/apimachinery/pkg/conversion"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// convertReadOptions reads the options of runs/steps and runs/history from a query.
func convertReadOptions(from, to any, _ conversion.Scope) error {
	values, ok := from.(*url.Values)
	options, toOptions := to.(*datav1alpha1.ReadOptions)
	if !ok || !toOptions {
		return fmt.Errorf("convert %T to %T: want a query and ReadOptions", from, to)
	}
	options.Continue = values.Get("continue")
	if text := values.Get("limit"); text != "" {
		limit, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("limit=%s: want a number of step attempts", text)
		}
		options.Limit = limit
	}
	return nil
}
