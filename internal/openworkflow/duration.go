package openworkflow

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// durationPattern is R31's grammar. The letters are spelled out because Go's case folding
// would also accept the Kelvin sign and the long s. The spaces are JavaScript's.
var durationPattern = regexp.MustCompile(
	`^(-?\.?[0-9]+(?:\.[0-9]+)?)[\s\v\x{00a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}]*([a-zA-Z]+)?$`)

const (
	second = 1000
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
	week   = 7 * day
	year   = 365.25 * day
	month  = year / 12
)

// units maps R31's unit words to milliseconds. The empty word stands for no unit.
var units = map[string]float64{
	"": 1, "ms": 1, "msec": 1, "msecs": 1, "millisecond": 1, "milliseconds": 1,
	"s": second, "sec": second, "secs": second, "second": second, "seconds": second,
	"m": minute, "min": minute, "mins": minute, "minute": minute, "minutes": minute,
	"h": hour, "hr": hour, "hrs": hour, "hour": hour, "hours": hour,
	"d": day, "day": day, "days": day,
	"w": week, "week": week, "weeks": week,
	"mo": month, "month": month, "months": month,
	"y": year, "yr": year, "yrs": year, "year": year, "years": year,
}

// ParseDuration reads OpenWorkflow's duration text. It returns milliseconds, which may be
// negative, fractional, or more than a time.Duration holds (R31). The error text is R32's.
func ParseDuration(s string) (ms float64, err error) {
	match := durationPattern.FindStringSubmatch(s)
	if match == nil {
		return 0, invalidDuration(s)
	}
	unit, ok := units[strings.ToLower(match[2])]
	if !ok {
		return 0, invalidDuration(s)
	}
	number, err := strconv.ParseFloat(match[1], 64)
	if err != nil {
		return 0, invalidDuration(s)
	}
	return number * unit, nil
}

func invalidDuration(s string) error {
	return fmt.Errorf(`Invalid duration format: "%s"`, s) //nolint:staticcheck // the text is part of the format (R32)
}

// isoMilliseconds is R30's form, for years of four digits.
const isoMilliseconds = "2006-01-02T15:04:05.000Z"

// FormatTime formats an instant like the dates in JSON columns: ISO 8601 in UTC with three
// fraction digits, truncated to milliseconds (R30).
func FormatTime(t time.Time) string {
	t = time.UnixMilli(t.UnixMilli()).UTC()
	switch y := t.Year(); {
	case y > 9999:
		return fmt.Sprintf("+%06d%s", y, t.Format(isoMilliseconds[4:]))
	case y < 0:
		return fmt.Sprintf("-%06d%s", -y, t.Format(isoMilliseconds[4:]))
	default:
		return t.Format(isoMilliseconds)
	}
}

// timeLayouts are the ISO 8601 forms that writers of these columns are known to use. A date
// without a time is UTC.
var timeLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02"}

// maxDate is how many milliseconds JavaScript's dates reach from 1970 to either side.
const maxDate = 100_000_000 * day

// ParseTime reads a date from a JSON column (R30). It returns an error for any other text, and
// for a date that JavaScript does not have. Readers treat it as an instant in the past (R72).
func ParseTime(s string) (time.Time, error) {
	t, ok := parseExpandedYear(s)
	for _, layout := range timeLayouts {
		if ok {
			break
		}
		var err error
		t, err = time.Parse(layout, s)
		ok = err == nil
	}
	if ms := t.UnixMilli(); !ok || ms < -maxDate || ms > maxDate {
		return time.Time{}, fmt.Errorf("invalid date %q", s)
	}
	return t.UTC(), nil
}

// parseExpandedYear reads JavaScript's form for years outside 0 to 9999: a sign and six
// digits.
func parseExpandedYear(s string) (time.Time, bool) {
	if len(s) < 8 || s[0] != '+' && s[0] != '-' {
		return time.Time{}, false
	}
	y, err := strconv.Atoi(s[:7])
	if err != nil {
		return time.Time{}, false
	}
	// Parse with the year 2000, which has a February 29. time.Date normalizes a date that
	// the real year does not have.
	t, err := time.Parse(time.RFC3339Nano, "2000"+s[7:])
	if err != nil {
		return time.Time{}, false
	}
	t = t.UTC()
	return time.Date(y+t.Year()-2000, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC), true
}
