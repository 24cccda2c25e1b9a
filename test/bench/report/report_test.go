package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	for name, c := range map[string]struct {
		values []float64
		q      float64
		want   float64
	}{
		"of nothing":                     {nil, 0.5, 0},
		"of one value":                   {[]float64{3}, 0.99, 3},
		"median of an odd number":        {[]float64{5, 1, 3}, 0.5, 3},
		"median of an even number":       {[]float64{4, 1, 3, 2}, 0.5, 2.5},
		"between two values":             {[]float64{0, 10}, 0.9, 9},
		"the smallest":                   {[]float64{2, 1}, 0, 1},
		"the largest":                    {[]float64{2, 1}, 1, 2},
		"the values keep their order":    {[]float64{9, 7, 8}, 0.5, 8},
		"99th percentile of a hundred":   {upTo(101), 0.99, 99},
		"99.9th percentile of a hundred": {upTo(101), 0.999, 99.9},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]float64(nil), c.values...)
			if got := Quantile(c.values, c.q); got-c.want > 1e-9 || c.want-got > 1e-9 {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if diff := cmp.Diff(before, c.values); diff != "" {
				t.Errorf("it changed the values:\n%s", diff)
			}
		})
	}
}

func upTo(n int) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = float64(i)
	}
	return values
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.00012345: "0.00012", 0.12345: "0.1235", 0.5: "0.5", 1.2345: "1.23", 12.345: "12.3",
		123.45: "123", 12345: "12345", -2.5: "-2.50", 1_234_567: "1.23M",
	} {
		if got := Number(v); got != want {
			t.Errorf("Number(%v) is %q, want %q", v, got, want)
		}
	}
}

func measured() *Report {
	r := &Report{}
	for _, v := range []float64{0.9, 1.3, 1.1} {
		r.Add("a disk", "W1", Sample{"ratio": v, "steps/s": 1000 * v})
	}
	r.Add("another", "W1", Sample{"ratio": 2})
	return r
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		wanted Range
		want   []string
	}{
		"one sample is inside":          {Range{Server: "a disk", Name: "W1", Metric: "ratio", Min: new(1.0), Max: new(1.2)}, nil},
		"the bounds are inside":         {Range{Server: "a disk", Name: "W1", Metric: "ratio", Min: new(1.1), Max: new(1.1)}, nil},
		"all are too small":             {Range{Server: "a disk", Name: "W1", Metric: "ratio", Min: new(1.4)}, []string{"a disk, W1: ratio is 1.10, want ≥ 1.40"}},
		"all are too large":             {Range{Server: "a disk", Name: "W1", Metric: "ratio", Max: new(0.8)}, []string{"a disk, W1: ratio is 1.10, want ≤ 0.8"}},
		"on any server":                 {Range{Name: "W1", Metric: "ratio", Max: new(1.5)}, []string{"another, W1: ratio is 2.00, want ≤ 1.50"}},
		"what was not measured is said": {Range{Name: "W2", Metric: "ratio", Max: new(1.5)}, []string{"W2: ratio was not measured"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, measured().Check([]Range{c.wanted})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadRanges(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    []Range
		err     string
	}{
		"a list":        {"- {name: W1, metric: ratio, min: 0.5}\n", []Range{{Name: "W1", Metric: "ratio", Min: new(0.5)}}, ""},
		"no bounds":     {"- {name: W1, metric: ratio}\n", nil, "lacks a name, a metric, or both min and max"},
		"unknown words": {"- {name: W1, metric: ratio, least: 1}\n", nil, "least"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ranges.yaml")
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadRanges(file)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error is %v, want it to say %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is committed beside the benchmarks can be read.
func TestCommittedRanges(t *testing.T) {
	for _, file := range []string{"../ranges.yaml", "../goals.yaml"} {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if ranges, err := ReadRanges(file); err != nil || len(ranges) == 0 {
				t.Errorf("%d ranges, %v", len(ranges), err)
			}
		})
	}
}

func TestTableMarksWhatWasMissed(t *testing.T) {
	var table bytes.Buffer
	wanted := []Range{
		{Server: "a disk", Name: "W1", Metric: "ratio", Min: new(1.2)},
		{Server: "another", Name: "W1", Metric: "ratio", Min: new(1.2)},
	}
	if err := measured().WriteTable(&table, wanted); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(table.String()) {
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "a disk") && strings.Contains(line, "ratio"):
			want := []string{"a", "disk", "W1", "ratio", "1.10", "0.9", "1.30", "3", "≥", "1.20", "MISSED"}
			if diff := cmp.Diff(want, fields); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		case strings.HasPrefix(line, "another") && strings.Contains(line, "MISSED"):
			t.Errorf("not missed: %s", line)
		}
	}
}

func TestPlotIsXML(t *testing.T) {
	var plot bytes.Buffer
	r := measured()
	r.Add("<a> & b", "W2", Sample{"ratio": 0})
	panels := []Panel{{Title: "Ratios < 2 & more", Metric: "ratio", Mark: 1}, {Title: "nothing", Metric: "none"}}
	if err := r.WriteSVG(&plot, panels); err != nil {
		t.Fatal(err)
	}
	circles, lines := 0, 0
	decoder := xml.NewDecoder(bytes.NewReader(plot.Bytes()))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, plot.String())
		}
		if element, ok := token.(xml.StartElement); ok {
			switch element.Name.Local {
			case "circle":
				circles++
			case "line":
				lines++
			}
		}
	}
	if circles != 5 || lines != 1 || strings.Contains(plot.String(), "nothing") || strings.Contains(plot.String(), "%!") {
		t.Errorf("%d samples and %d marks, want 5 and 1, and no empty panel:\n%s", circles, lines, plot.String())
	}
}
