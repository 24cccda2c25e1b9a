package report

import (
	"fmt"
	"os"
	"slices"

	"sigs.k8s.io/yaml"
)

// Range is what a metric should be in.
type Range struct {
	// Server and Name select the result; an empty Server is any.
	Server string   `json:"server,omitempty"`
	Name   string   `json:"name"`
	Metric string   `json:"metric"`
	Min    *float64 `json:"min,omitempty"`
	Max    *float64 `json:"max,omitempty"`
}

// ReadRanges reads a file with a list of ranges.
func ReadRanges(file string) ([]Range, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var ranges []Range
	if err := yaml.UnmarshalStrict(content, &ranges); err != nil {
		return nil, fmt.Errorf("read ranges: %s: %w", file, err)
	}
	for _, r := range ranges {
		if r.Name == "" || r.Metric == "" || r.Min == nil && r.Max == nil {
			return nil, fmt.Errorf("read ranges: %s: %+v lacks a name, a metric, or both min and max", file, r)
		}
	}
	return ranges, nil
}

// Check returns a sentence for each range that all samples are outside of, and for each that
// nothing was measured for. A real loss shows in every round, other load of the machine in
// some of them.
func (r *Report) Check(ranges []Range) []string {
	var faults []string
	for _, x := range ranges {
		found := false
		for _, result := range r.Results {
			values := result.Values(x.Metric)
			if !x.matches(result, x.Metric) || len(values) == 0 {
				continue
			}
			found = true
			if !slices.ContainsFunc(values, x.holds) {
				faults = append(faults, fmt.Sprintf("%s, %s: %s is %s, want %s",
					result.Server, result.Name, x.Metric, Number(Median(values)), x))
			}
		}
		if !found {
			faults = append(faults, fmt.Sprintf("%s: %s was not measured", x.Name, x.Metric))
		}
	}
	return faults
}

func (x Range) matches(r Result, metric string) bool {
	return (x.Server == "" || x.Server == r.Server) && x.Name == r.Name && x.Metric == metric
}

func (x Range) holds(v float64) bool {
	return (x.Min == nil || v >= *x.Min) && (x.Max == nil || v <= *x.Max)
}

// String returns the range as one reads it.
func (x Range) String() string {
	switch {
	case x.Min == nil:
		return "≤ " + Number(*x.Max)
	case x.Max == nil:
		return "≥ " + Number(*x.Min)
	default:
		return Number(*x.Min) + " – " + Number(*x.Max)
	}
}
