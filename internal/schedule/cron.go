package schedule

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MaxExpression is the length of the longest expression, in bytes.
const MaxExpression = 128

const (
	minute = 60
	hour   = 60 * minute
	day    = 24 * hour
)

// Expression is a parsed cron expression. It matches minutes of a wall clock.
//
// The syntax is that of Kubernetes' CronJob without time zones: five fields (minute, hour, day of
// month, month, day of week) with *, numbers, ranges, lists, steps and the English names of months
// and days, or one of @yearly, @annually, @monthly, @weekly, @daily, @midnight and @hourly. Sunday
// is 0 or 7. If both days are restricted, either may match. A field is unrestricted if it is * or ?.
type Expression struct {
	minutes, hours, days, months, weekdays uint64 // bit n stands for n
	anyDay, anyWeekday                     bool
	// everyHour is true if each hour of a day has a match: the expression names no time of day.
	everyHour bool
	// minutely is true if the minutes are a step, so that matches follow each other by elapsed time.
	minutely bool
}

// field is one of the five.
type field struct {
	name     string
	min, max int
	names    []string // of min, min+1, …
}

var fields = [5]field{
	{name: "minute", max: 59},
	{name: "hour", max: 23},
	{name: "day of month", min: 1, max: 31},
	{name: "month", min: 1, max: 12, names: []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{name: "day of week", max: 7, names: []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

var macros = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// Parse parses an expression. An expression that never matches, such as 30 February, is an error.
func Parse(text string) (*Expression, error) {
	if len(text) > MaxExpression {
		return nil, fmt.Errorf("the expression has %d bytes, the limit is %d: split it into several", len(text), MaxExpression)
	}
	e, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("expression %q: %w", text, err)
	}
	return e, nil
}

func parse(text string) (*Expression, error) {
	if strings.HasPrefix(text, "@") {
		long, ok := macros[strings.ToLower(text)]
		if !ok {
			return nil, errors.New("use @yearly, @monthly, @weekly, @daily or @hourly, or five fields: minute, hour, day of month, month, day of week")
		}
		text = long
	}
	if strings.Contains(text, "TZ=") {
		return nil, errors.New("give the time zone in timeZone")
	}
	parts := strings.Fields(text)
	if len(parts) != len(fields) {
		return nil, fmt.Errorf("it has %d fields, and needs five: minute, hour, day of month, month, day of week (there are no seconds and no years)", len(parts))
	}
	var sets [5]uint64
	for i, part := range parts {
		set, err := fields[i].parse(part)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", fields[i].name, part, err)
		}
		sets[i] = set
	}
	sets[4] = (sets[4] | sets[4]>>7&1) &^ (1 << 7) // Sunday is 0, and 7
	e := &Expression{
		minutes: sets[0], hours: sets[1], days: sets[2], months: sets[3], weekdays: sets[4],
		anyDay: isAny(parts[2]), anyWeekday: isAny(parts[4]),
		everyHour: sets[1] == 1<<24-1, minutely: strings.HasPrefix(parts[0], "*"),
	}
	return e, e.checkHappens()
}

// isAny reports whether a field is unrestricted.
func isAny(text string) bool {
	return slices.ContainsFunc(strings.Split(text, ","), func(item string) bool { return item == "*" || item == "?" || item == "*/1" })
}

// checkHappens returns an error if no month has the days.
func (e *Expression) checkHappens() error {
	if e.anyDay || !e.anyWeekday {
		return nil
	}
	first := bits.TrailingZeros64(e.days)
	for month := time.January; month <= time.December; month++ {
		if e.months>>month&1 == 1 && first <= daysIn(2000, month) {
			return nil
		}
	}
	return fmt.Errorf("it never happens: none of its months has a day %d", first)
}

// parse returns the numbers of a field's list as bits.
func (f *field) parse(text string) (uint64, error) {
	var set uint64
	for item := range strings.SplitSeq(text, ",") {
		first, last, step, err := f.span(item)
		if err != nil {
			return 0, err
		}
		for n := first; n <= last; n += step {
			set |= 1 << n
		}
	}
	return set, nil
}

// span parses one item of a list: *, N, N-M, each with /STEP.
func (f *field) span(item string) (first, last, step int, err error) {
	numbers, every, stepped := strings.Cut(item, "/")
	step = 1
	if stepped {
		if step, err = number(every); err != nil || step < 1 || step > f.max {
			return 0, 0, 0, fmt.Errorf("the step after / must be a number from 1 to %d", f.max)
		}
	}
	if numbers == "*" || numbers == "?" {
		return f.min, f.largest(), step, nil
	}
	from, to, ranged := strings.Cut(numbers, "-")
	if first, err = f.value(from); err != nil {
		return 0, 0, 0, err
	}
	switch {
	case ranged:
		if last, err = f.value(to); err != nil {
			return 0, 0, 0, err
		}
		if last < first {
			return 0, 0, 0, fmt.Errorf("the range %s ends before it begins: write it as two, such as 22-23,0-5", numbers)
		}
	case stepped: // from there on
		last = max(first, f.largest())
	default:
		last = first
	}
	return first, last, step, nil
}

// largest is the largest number that * stands for: 7 is Sunday once more.
func (f *field) largest() int {
	if f.max == 7 {
		return 6
	}
	return f.max
}

// value parses a number or a name.
func (f *field) value(text string) (int, error) {
	if i := slices.Index(f.names, strings.ToLower(text)); i >= 0 {
		return f.min + i, nil
	}
	n, err := number(text)
	if err == nil && n >= f.min && n <= f.max {
		return n, nil
	}
	if len(f.names) > 0 {
		return 0, fmt.Errorf("%q is neither a number from %d to %d nor a name such as %s", text, f.min, f.max, f.names[1])
	}
	return 0, fmt.Errorf("%q is no number from %d to %d", text, f.min, f.max)
}

// number parses one or two digits.
func number(text string) (int, error) {
	if len(text) > 2 || strings.ContainsAny(text, "+-") {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(text)
}

// next returns the first match of a wall clock at or after from and before until, in wall seconds.
func (e *Expression) next(from, until int64) (int64, bool) {
	from = ceil(from, minute)
	if from >= until {
		return 0, false
	}
	date := floor(from, day)
	if e.matchesDate(date) {
		if at, ok := e.nextInDay(from - date); ok {
			return date + at, date+at < until
		}
	}
	date, ok := e.nextDate(date+day, until)
	if !ok {
		return 0, false
	}
	at, _ := e.nextInDay(0)
	return date + at, date+at < until
}

// nextInDay returns the first time of day at or after from, in seconds.
func (e *Expression) nextInDay(from int64) (int64, bool) {
	h := int(from / hour)
	if e.hours>>h&1 == 1 {
		if minutes := e.minutes >> (from % hour / minute); minutes != 0 {
			return from + int64(bits.TrailingZeros64(minutes))*minute, true
		}
	}
	later := e.hours >> (h + 1)
	if later == 0 {
		return 0, false
	}
	return int64(h+1+bits.TrailingZeros64(later))*hour + int64(bits.TrailingZeros64(e.minutes))*minute, true
}

func (e *Expression) matchesDate(date int64) bool {
	year, month, d := time.Unix(date, 0).UTC().Date()
	return e.months>>month&1 == 1 && e.datesOf(year, month)>>d&1 == 1
}

// nextDate returns the first day at or after date and before until. Each turn is a month.
func (e *Expression) nextDate(date, until int64) (int64, bool) {
	year, month, first := time.Unix(date, 0).UTC().Date()
	for {
		begin := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Unix()
		if begin >= until {
			return 0, false
		}
		if e.months>>month&1 == 1 {
			if later := e.datesOf(year, month) >> first; later != 0 {
				return begin + int64(first-1+bits.TrailingZeros64(later))*day, true
			}
		}
		first = 1
		if month++; month > time.December {
			year, month = year+1, time.January
		}
	}
}

// datesOf returns the days of a month that match, as bits.
func (e *Expression) datesOf(year int, month time.Month) uint64 {
	all := uint64(1)<<(daysIn(year, month)+1) - 2
	if e.anyWeekday {
		return e.days & all
	}
	// Seven bits for each week, so that bit 1 is the weekday of the first.
	weekday := int(time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Weekday())
	week := (e.weekdays>>weekday | e.weekdays<<(7-weekday)) & (1<<7 - 1)
	weekdays := (week | week<<7 | week<<14 | week<<21 | week<<28) << 1
	if e.anyDay {
		return weekdays & all
	}
	return (weekdays | e.days) & all
}

func daysIn(year int, month time.Month) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// floor and ceil round to a multiple.
func floor(n, of int64) int64 { return n - ((n%of)+of)%of }
func ceil(n, of int64) int64  { return floor(n+of-1, of) }
