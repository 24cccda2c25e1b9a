// Package report is what the benchmarks have measured, and how it is shown: as a
// table, as JSON with all raw samples, and as a plot.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Sample is one measurement: metrics by name.
type Sample map[string]float64

// Result is what was measured of one thing on one server, sample by sample.
type Result struct {
	// Server is the Postgres: the machine's disk as it is, or one with slower flushes.
	Server string `json:"server"`
	// Name is what was measured.
	Name    string   `json:"name"`
	Samples []Sample `json:"samples"`
}

// Values are a metric's in the order of the samples, of those that have it.
func (r Result) Values(metric string) []float64 {
	var values []float64
	for _, s := range r.Samples {
		if v, ok := s[metric]; ok {
			values = append(values, v)
		}
	}
	return values
}

// Metrics are the names of all metrics, sorted.
func (r Result) Metrics() []string {
	names := map[string]struct{}{}
	for _, s := range r.Samples {
		for name := range s {
			names[name] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Machine is where it was measured.
type Machine struct {
	CPU      string `json:"cpu"`
	CPUs     int    `json:"cpus"`
	MemoryMB int    `json:"memoryMB"`
	Kernel   string `json:"kernel"`
	Go       string `json:"go"`
	Postgres string `json:"postgres"`
	// Load is the number of processes that wanted a CPU at the beginning, on average.
	Load string `json:"load"`
}

// Report is one session of measurements.
type Report struct {
	Began    time.Time           `json:"began"`
	Took     string              `json:"took"`
	Revision string              `json:"revision"`
	Short    bool                `json:"short"`
	Machine  Machine             `json:"machine"`
	Settings map[string][]string `json:"settings"`
	Results  []Result            `json:"results"`
}

// Add adds a sample to the result of this server and name.
func (r *Report) Add(server, name string, s Sample) {
	for i := range r.Results {
		if r.Results[i].Server == server && r.Results[i].Name == name {
			r.Results[i].Samples = append(r.Results[i].Samples, s)
			return
		}
	}
	r.Results = append(r.Results, Result{Server: server, Name: name, Samples: []Sample{s}})
}

// Median returns the median of a metric, and whether there is one.
func (r *Report) Median(server, name, metric string) (float64, bool) {
	for _, result := range r.Results {
		if result.Server == server && result.Name == name {
			values := result.Values(metric)
			return Median(values), len(values) > 0
		}
	}
	return 0, false
}

// WriteJSON writes everything.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

// WriteTable writes the median, the smallest and the largest value of each metric, and
// beside it the range that it should be in, if one is given.
func (r *Report) WriteTable(w io.Writer, ranges []Range) error {
	if _, err := fmt.Fprintf(w, "%s, %d CPUs, %d MB, load %s; %s, Postgres %s, Linux %s; revision %s, %s, took %s\n\n",
		r.Machine.CPU, r.Machine.CPUs, r.Machine.MemoryMB, r.Machine.Load, r.Machine.Go, r.Machine.Postgres, r.Machine.Kernel,
		r.Revision, r.Began.Format(time.DateTime), r.Took); err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "server\tmeasured\tmetric\tmedian\tsmallest\tlargest\tsamples\twanted")
	for _, result := range r.Results {
		for _, metric := range result.Metrics() {
			values := result.Values(metric)
			wanted := ""
			for _, x := range ranges {
				if x.matches(result, metric) {
					wanted = x.String()
					if !x.holds(Median(values)) {
						wanted += "  MISSED"
					}
				}
			}
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", result.Server, result.Name, metric,
				Number(Median(values)), Number(slices.Min(values)), Number(slices.Max(values)), len(values), wanted)
		}
	}
	return table.Flush()
}

// Number prints three significant digits, and all of those before the point.
func Number(v float64) string {
	switch abs := max(v, -v); {
	case abs >= 1_000_000:
		return fmt.Sprintf("%.2fM", v/1_000_000)
	case abs >= 100:
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	case abs >= 1:
		return fmt.Sprintf("%.2f", v)
	case abs >= 0.001:
		return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.4f", v), "0"), ".")
	case v == 0:
		return "0"
	default:
		return fmt.Sprintf("%.2g", v)
	}
}

// Median returns the median of the values, 0 of none.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile returns the q-quantile of the values, between two of them if need be; 0 of
// none.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
