package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"
)

// ageOf is the time since t, for people.
func ageOf(t metav1.Time, now time.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(now.Sub(t.Time))
}

// spanOf is the time from the start to the end, or until now.
func spanOf(start, end *metav1.Time, now time.Time) string {
	switch {
	case start == nil:
		return ""
	case end == nil:
		return duration.HumanDuration(now.Sub(start.Time))
	default:
		return duration.HumanDuration(end.Sub(start.Time))
	}
}

// short prints a duration with the precision that a person wants: 12ms, 1.5s, 3m20s, 2d4h.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	default:
		return duration.HumanDuration(d)
	}
}

// line replaces what would break a line, or move a terminal's cursor, and cuts what is longer
// than limit characters. Names of steps and errors are other people's input.
func line(text string, limit int) string {
	var b strings.Builder
	count := 0
	for _, r := range text {
		if count++; count > limit {
			b.WriteString("...")
			break
		}
		if r < ' ' || (r >= 0x7f && r < 0xa0) || r == '\u2028' || r == '\u2029' {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// fieldsOf prints names and values in two columns, as kubectl describe does. Pairs without a
// value are left out.
func fieldsOf(out io.Writer, pairs ...string) error {
	var b strings.Builder
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			fmt.Fprintf(&b, "%s:\t%s\n", pairs[i], line(pairs[i+1], 500))
		}
	}
	return printColumns(out, b.String())
}

// printColumns prints a text whose columns are separated by tabs.
func printColumns(out io.Writer, text string) error {
	w := printers.GetNewTabWriter(out)
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	return w.Flush()
}
