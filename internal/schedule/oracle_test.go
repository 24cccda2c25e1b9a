package schedule

import (
	_ "embed"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	_ "time/tzdata" // the zones of the manager
)

var full = flag.Bool("full", false, "compare all zones over ten years, with 200 expressions")

// zoneNames are the names of all IANA zones that Go knows.
//
//go:embed testdata/zones.txt
var zoneNames string

// wallMinute is what the clock of a zone shows at a minute.
type wallMinute struct {
	at   int64
	date int64 // days since 1970
	tod  int   // minutes since midnight
}

// zoneClock is what the clock of a zone shows from one time to another.
type zoneClock struct {
	minutes []wallMinute
	tods    []int16
	// skips is how many minutes the clock has skipped before each, and nearFold whether it has gone
	// back within two days.
	skips    []int64
	nearFold []bool
	// plain are the first minutes of days on which the clock shows each minute once, in order, and
	// others the minutes of the other days. So expressions share what the clock of a plain day shows.
	plain, others []int
}

// from and until are the times between which slots are compared.
func (c *zoneClock) from() int64  { return c.minutes[2*1440].at }
func (c *zoneClock) until() int64 { return c.minutes[len(c.minutes)-2*1440].at }

// clockOf reads the clock of a zone at each minute.
func clockOf(zone *time.Location, from, until time.Time) *zoneClock {
	n := int(until.Sub(from) / time.Minute)
	clock := &zoneClock{minutes: make([]wallMinute, n), tods: make([]int16, n), skips: make([]int64, n), nearFold: make([]bool, n)}
	for i := range n {
		at := from.Unix() + int64(i)*60
		w := time.Unix(at, 0).In(zone)
		year, month, d := w.Date()
		h, m, _ := w.Clock()
		clock.minutes[i] = wallMinute{at, time.Date(year, month, d, 0, 0, 0, 0, time.UTC).Unix() / 86400, h*60 + m}
		clock.tods[i] = int16(h*60 + m)
		if i == 0 {
			continue
		}
		before := clock.minutes[i-1]
		switch step := (clock.minutes[i].date-before.date)*1440 + int64(clock.minutes[i].tod-before.tod); {
		case step > 1:
			clock.skips[i] = step - 1
		case step < 1:
			for near := max(0, i-2*1440); near < min(n, i+2*1440); near++ {
				clock.nearFold[near] = true
			}
		}
	}
	for i := 0; i < n; {
		if clock.isPlain(i) {
			clock.plain = append(clock.plain, i)
			i += 1440
		} else {
			clock.others = append(clock.others, i)
			i++
		}
	}
	return clock
}

// isPlain reports whether a plain day begins at a minute.
func (c *zoneClock) isPlain(first int) bool {
	const day = 1440
	if first+day > len(c.minutes) {
		return false
	}
	for i := range day {
		if int(c.tods[first+i]) != i || c.minutes[first+i].date != c.minutes[first].date || c.skips[first+i] > 0 || c.nearFold[first+i] {
			return false
		}
	}
	return true
}

// oracle finds the slots by looking at each minute of a clock. It has its own parser.
type oracle struct {
	minutes, hours, days, months, weekdays map[int]bool
	either                                 bool // one of the two days suffices
	everyHour, minutely                    bool
	times                                  [1440]bool // minutes of a day
	tods                                   []int64    // those that match
	dates                                  []bool     // days since 1970
}

// lastDate is the number of the last day that an oracle knows.
const lastDate = 75 * 366

func newOracle(text string) *oracle {
	parts := strings.Fields(text)
	o := &oracle{
		minutes: oracleSet(parts[0], 0, 59), hours: oracleSet(parts[1], 0, 23), days: oracleSet(parts[2], 1, 31),
		months: oracleSet(parts[3], 1, 12), weekdays: oracleSet(parts[4], 0, 7),
		either: parts[2] != "*" && parts[4] != "*", minutely: parts[0][0] == '*',
	}
	o.weekdays[0] = o.weekdays[0] || o.weekdays[7]
	o.everyHour = len(o.hours) == 24
	for tod := range o.times {
		if o.times[tod] = o.minutes[tod%60] && o.hours[tod/60]; o.times[tod] {
			o.tods = append(o.tods, int64(tod))
		}
	}
	for date := range int64(lastDate) {
		t := time.Unix(date*86400, 0).UTC()
		day, weekday := o.days[t.Day()], o.weekdays[int(t.Weekday())]
		o.dates = append(o.dates, o.months[int(t.Month())] && (day && weekday || o.either && (day || weekday)))
	}
	return o
}

// oracleSet understands *, numbers, ranges, lists and steps.
func oracleSet(text string, low, high int) map[int]bool {
	set := map[int]bool{}
	for item := range strings.SplitSeq(text, ",") {
		span, step, stepped := strings.Cut(item, "/")
		every, first, last := 1, low, high
		if stepped {
			every, _ = strconv.Atoi(step)
		}
		if span != "*" {
			a, b, ranged := strings.Cut(span, "-")
			first, _ = strconv.Atoi(a)
			if ranged {
				last, _ = strconv.Atoi(b)
			} else if !stepped {
				last = first
			}
		}
		for n := low; n <= high; n++ {
			if n >= first && n <= last && (n-first)%every == 0 {
				set[n] = true
			}
		}
	}
	return set
}

func (o *oracle) matches(date int64, tod int) bool { return o.times[tod] && o.dates[date] }

// slots returns the slots of a clock, apart from those in its first two days, during which it may
// not know that it shows a time again.
func (o *oracle) slots(clock *zoneClock, gap Gap, fold Fold) []int64 {
	var slots []int64
	shown := map[int64][]int64{} // the times at which the clock shows a matching minute that it may show twice
	for _, first := range clock.plain {
		if w := clock.minutes[first]; o.dates[w.date] {
			for _, tod := range o.tods {
				slots = append(slots, w.at+tod*60)
			}
		}
	}
	for _, i := range clock.others {
		if o.times[clock.tods[i]] {
			w := clock.minutes[i]
			if once := o.everyHour || o.minutely || fold == FoldBoth || !clock.nearFold[i]; o.matches(w.date, w.tod) && once {
				slots = append(slots, w.at)
			} else if o.matches(w.date, w.tod) {
				minute := w.date*1440 + int64(w.tod)
				shown[minute] = append(shown[minute], w.at)
			}
		}
		if clock.skips[i] > 0 && !o.everyHour && gap != GapSkip {
			w := clock.minutes[i]
			for skipped := w.date*1440 + int64(w.tod) - clock.skips[i]; skipped < w.date*1440+int64(w.tod); skipped++ {
				if o.matches(skipped/1440, int(skipped%1440)) {
					slots = append(slots, w.at)
				}
			}
		}
	}
	for _, times := range shown {
		if fold == FoldSecond {
			slots = append(slots, times[len(times)-1])
		} else {
			slots = append(slots, times[0])
		}
	}
	slices.Sort(slots)
	return slices.DeleteFunc(slices.Compact(slots), func(at int64) bool { return at <= clock.from() || at >= clock.until() })
}

// expressions returns expressions with times around those at which clocks change, and random ones.
func expressions(n int) []string {
	list := []string{
		"30 2 * * *", "0 2 * * *", "0 0 * * *", "30 1 * * *", "59 23 * * *", "0,30 1-3 * * *", "* * * * *", "*/5 * * * *", "0 * * * *",
		"30 * * * *", "*/15 2 * * *", "*/7 0-5 * * *", "0 */6 * * *", "15 0,12 * * *", "0 3 * * 0", "30 2 * 3,10,11 6,7", "0 0 1 * *",
		"0 0 29 2 *", "5 4 31 */2 1", "0 9 13 * 5", "10-20/3 1,2 * * *", "45 1 8-14 3 *", "59 1 * * *", "1 3 * * *",
	}
	random := rand.New(rand.NewPCG(7, 7))
	pick := func(low, high int) string {
		a, b := low+random.IntN(high-low+1), low+random.IntN(high-low+1)
		switch random.IntN(5) {
		case 0:
			return fmt.Sprintf("%d-%d", min(a, b), max(a, b))
		case 1:
			return fmt.Sprintf("%d,%d", a, b)
		case 2:
			return fmt.Sprintf("%d-%d/%d", min(a, b), max(a, b), 1+random.IntN(5))
		default:
			return strconv.Itoa(a)
		}
	}
	orAny := func(low, high int) string {
		if random.IntN(2) == 0 {
			return "*"
		}
		return pick(low, high)
	}
	for len(list) < n {
		m, h := pick(0, 59), pick(0, 4)
		if random.IntN(8) == 0 {
			m = fmt.Sprintf("*/%d", 1+random.IntN(30))
		}
		if random.IntN(8) == 0 {
			h = "*"
		}
		text := strings.Join([]string{m, h, orAny(1, 28), orAny(1, 12), orAny(0, 7)}, " ")
		list = append(list, text)
	}
	return list[:n]
}

// comparison is one zone in one interval.
type comparison struct {
	zone        string
	from, until time.Time
}

// comparisons returns what is compared: in the short form the days around each change of a clock,
// else all days. Zones whose clocks change at the same times by as much are compared once.
func comparisons(t *testing.T) []comparison {
	t.Helper()
	begin, end := time.Date(2019, 12, 29, 0, 0, 0, 0, time.UTC), time.Date(2030, 1, 3, 0, 0, 0, 0, time.UTC)
	seen := map[string]bool{}
	var all []comparison
	for name := range strings.FieldsSeq(zoneNames) {
		zone, err := loadZone(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var changes []time.Time
		key := strings.Builder{}
		for at := begin; at.Before(end); {
			_, offset := at.In(zone).Zone()
			fmt.Fprint(&key, at.Unix(), offset, ";")
			_, next := at.In(zone).ZoneBounds()
			if next.IsZero() {
				break
			}
			changes = append(changes, next)
			at = next
		}
		if seen[key.String()] {
			continue
		}
		seen[key.String()] = true
		if *full {
			all = append(all, comparison{name, begin, end})
			continue
		}
		for _, change := range changes[:min(len(changes), 3)] {
			around := change.Truncate(time.Minute)
			all = append(all, comparison{name, around.Add(-4 * 24 * time.Hour), around.Add(4 * 24 * time.Hour)})
		}
	}
	for _, name := range []string{"America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago"} {
		for _, date := range []time.Time{ // zones have tables until 2037, and rules after that
			time.Date(2040, 12, 31, 0, 0, 0, 0, time.UTC), time.Date(2041, 3, 31, 0, 0, 0, 0, time.UTC), time.Date(2041, 10, 27, 0, 0, 0, 0, time.UTC),
		} {
			all = append(all, comparison{name, date.AddDate(0, 0, -9), date.AddDate(0, 0, 9)})
		}
	}
	return all
}

// TestTiming_EqualsABruteForceOracle: slots are those that a look at each minute of the clock finds.
func TestTiming_EqualsABruteForceOracle(t *testing.T) {
	t.Parallel()
	n := 24
	if *full {
		n = 200
	}
	texts, all := expressions(n), comparisons(t)
	oracles := make([]*oracle, len(texts))
	for i, text := range texts {
		oracles[i] = newOracle(text)
	}
	work := make(chan comparison)
	var slots atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for c := range work {
				slots.Add(compare(t, c, texts, oracles))
			}
		})
	}
	for _, c := range all {
		work <- c
	}
	close(work)
	wg.Wait()
	t.Logf("compared %d expressions in %d intervals: %d slots", len(texts), len(all), slots.Load())
}

func compare(t *testing.T, c comparison, texts []string, oracles []*oracle) (slots int64) {
	t.Helper()
	zone, err := time.LoadLocation(c.zone)
	if err != nil {
		t.Error(err)
		return 0
	}
	clock := clockOf(zone, c.from, c.until)
	after, until := at(clock.from()), at(clock.until()-1)
	for i, text := range texts {
		// All combinations of the two fields, over the expressions.
		gap := []Gap{GapRunAfter, GapSkip}[i/3%2]
		fold := []Fold{FoldFirst, FoldSecond, FoldBoth}[i%3]
		want := oracles[i].slots(clock, gap, fold)
		timing, err := NewTiming(Options{Expressions: []string{text}, Zone: c.zone, Gap: gap, Fold: fold})
		if err != nil {
			if len(want) > 0 {
				t.Errorf("%q is refused but has slots: %v", text, err)
			}
			continue
		}
		found := timing.Between(after, until, len(want)+1)
		got := make([]int64, len(found))
		for i, slot := range found {
			got[i] = slot.Unix()
		}
		slots += int64(len(got))
		if !slices.Equal(got, want) {
			t.Errorf("%s %q %s %s: %s", c.zone, text, gap, fold, difference(got, want, zone))
			continue
		}
		if last, ok := timing.Last(after, until); ok != (len(want) > 0) || ok && last.Unix() != want[len(want)-1] {
			t.Errorf("%s %q: the last slot is %s, %t", c.zone, text, last, ok)
		}
	}
	return slots
}

// difference names the first slot that only one of two lists has.
func difference(got, want []int64, zone *time.Location) string {
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got) || i < len(want) && want[i] < got[i]:
			return "lacks " + at(want[i]).In(zone).String()
		case i >= len(want) || got[i] < want[i]:
			return "has " + at(got[i]).In(zone).String()
		}
	}
	return "equal"
}
