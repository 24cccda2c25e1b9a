package report

import (
	"fmt"
	"html"
	"io"
	"slices"
	"strings"
)

// Panel is one part of the plot: a metric, of all results that have it.
type Panel struct {
	Title, Metric string
	// Mark, if not 0, is a line to compare with.
	Mark float64
}

// Sizes of the plot, in pixels.
const (
	plotWidth  = 900
	plotLabel  = 300 // to the left of the bars
	plotNumber = 70  // to the right of them
	plotRow    = 22
	plotTitle  = 40
)

// WriteSVG draws a bar for each result's median and a dot for each sample.
func (r *Report) WriteSVG(w io.Writer, panels []Panel) error {
	var body strings.Builder
	y := 10
	for _, p := range panels {
		y = r.panel(&body, p, y)
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12">
<style>.bar{fill:#7aa6d6}.slow{fill:#d6a97a}.dot{fill:#1d3557;fill-opacity:.6}.mark{stroke:#b22;stroke-dasharray:4 3}text{fill:#222}.title{font-size:15px;font-weight:bold}</style>
<rect width="100%%" height="100%%" fill="#fff"/>
%[3]s</svg>
`, plotWidth, y+10, body.String())
	return err
}

// panel draws one panel and returns where the next one begins.
func (r *Report) panel(w *strings.Builder, p Panel, y int) int {
	var rows []Result
	largest := p.Mark
	for _, result := range r.Results {
		if values := result.Values(p.Metric); len(values) > 0 {
			rows = append(rows, result)
			largest = max(largest, slices.Max(values))
		}
	}
	if len(rows) == 0 || largest <= 0 {
		return y
	}
	scale := float64(plotWidth-plotLabel-plotNumber) / largest
	x := func(v float64) float64 { return plotLabel + v*scale }

	fmt.Fprintf(w, "<text class=\"title\" x=\"10\" y=\"%d\">%s</text>\n", y+24, html.EscapeString(p.Title))
	y += plotTitle
	top, servers := y, []string{}
	for _, row := range rows {
		if !slices.Contains(servers, row.Server) {
			servers = append(servers, row.Server)
		}
		values := row.Values(p.Metric)
		class := "bar"
		if slices.Index(servers, row.Server) > 0 {
			class = "slow"
		}
		fmt.Fprintf(w, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", plotLabel-8, y+15,
			html.EscapeString(row.Name+", "+row.Server))
		fmt.Fprintf(w, "<rect class=\"%s\" x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", class, plotLabel, y+3,
			Median(values)*scale, plotRow-6)
		for _, v := range values {
			fmt.Fprintf(w, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%d\" r=\"3\"/>\n", x(v), y+plotRow/2)
		}
		fmt.Fprintf(w, "<text x=\"%.1f\" y=\"%d\">%s</text>\n", x(slices.Max(values))+8, y+15, Number(Median(values)))
		y += plotRow
	}
	if p.Mark > 0 {
		fmt.Fprintf(w, "<line class=\"mark\" x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\"/>\n", x(p.Mark), top, x(p.Mark), y)
	}
	return y + 10
}
