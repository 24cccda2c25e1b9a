package schedule

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Gap says what happens to a time of day that the zone's clock skips.
type Gap string

const (
	// GapRunAfter means one slot at the end of the gap, for all times in it.
	GapRunAfter Gap = "RunAfter"
	// GapSkip means none.
	GapSkip Gap = "Skip"
)

// Fold says which of two equal times of day count, when the zone's clock shows one twice.
type Fold string

const (
	// FoldFirst means the first of the two.
	FoldFirst Fold = "First"
	// FoldSecond means the second.
	FoldSecond Fold = "Second"
	// FoldBoth means both.
	FoldBoth Fold = "Both"
)

// Options say when the slots of a schedule are.
type Options struct {
	// Expressions are cron expressions; a time that several match is one slot.
	Expressions []string
	// Zone is the name of an IANA time zone. Empty means UTC.
	Zone string
	// Gap applies to expressions that do not match in every hour. Empty means GapRunAfter.
	Gap Gap
	// Fold applies to expressions that name minutes and hours. Empty means FoldFirst. An expression
	// that matches in every hour, or whose minutes begin with *, goes on by elapsed time: for it,
	// both times count.
	Fold Fold
	// StartAt and EndAt are the earliest and the latest slot. Zero means no bound.
	StartAt, EndAt time.Time
}

// Timing is when the slots of a schedule are. It may be used by several goroutines.
type Timing struct {
	expressions []*Expression
	zone        *time.Location
	gap         Gap
	fold        Fold
	start, end  int64
}

// NewTiming parses expressions and loads the time zone.
func NewTiming(o Options) (*Timing, error) {
	zone, err := loadZone(o.Zone)
	if err != nil {
		return nil, err
	}
	if len(o.Expressions) == 0 {
		return nil, errors.New("there is no expression")
	}
	t := &Timing{zone: zone, gap: o.Gap, fold: o.Fold, start: math.MinInt64 >> 1, end: math.MaxInt64 >> 1}
	for _, text := range o.Expressions {
		e, err := Parse(text)
		if err != nil {
			return nil, err
		}
		t.expressions = append(t.expressions, e)
	}
	if !o.StartAt.IsZero() {
		t.start = o.StartAt.Unix()
		if o.StartAt.Nanosecond() > 0 {
			t.start++
		}
	}
	if !o.EndAt.IsZero() {
		t.end = o.EndAt.Unix()
	}
	return t, nil
}

// zones are the zones that were loaded, by name. There are some 600 names.
var zones sync.Map

// loadZone loads a zone by its IANA name.
func loadZone(name string) (*time.Location, error) {
	unusual := strings.IndexFunc(name, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("/_+-", r)
	})
	if name != "Local" && unusual < 0 && len(name) <= 64 {
		if zone, ok := zones.Load(name); ok {
			return zone.(*time.Location), nil //nolint:forcetypeassert // nothing else is stored
		}
		if zone, err := time.LoadLocation(name); err == nil {
			zones.Store(name, zone)
			return zone, nil
		}
	}
	return nil, fmt.Errorf("time zone %q is unknown: give the name of an IANA zone, such as Europe/Berlin or UTC", name)
}

// slot is a time at which a run is to start.
type slot struct {
	at int64
	// skipped is true for the end of a gap in which times were, with GapSkip.
	skipped bool
}

// Next returns the first slot after a time, false if there is none.
func (t *Timing) Next(after time.Time) (time.Time, bool) {
	s, ok := t.next(after.Unix(), false)
	return at(s.at), ok
}

// Between returns the slots after one time up to another, at most limit. An expression is asked
// once for each of its own slots, so that one with few of them does not make many of another dear.
func (t *Timing) Between(after, until time.Time, limit int) (slots []time.Time) {
	begin, end := max(after.Unix(), t.start-1), min(until.Unix(), t.end)
	next := make([]int64, len(t.expressions))
	segments := segmentReader{timing: t}
	advance := func(i int, after int64) {
		next[i] = math.MaxInt64
		if s, ok := t.nextOf(t.expressions[i], after, false, &segments); ok {
			next[i] = s.at
		}
	}
	for i := range next {
		advance(i, begin)
	}
	for len(slots) < limit {
		first := slices.Min(next)
		if first > end {
			break
		}
		slots = append(slots, at(first))
		for i := range next {
			if next[i] == first {
				advance(i, first)
			}
		}
	}
	return slots
}

// Last returns the last slot after one time up to another, false if there is none. It asks for as
// many slots as the distance has bits, not for those between.
func (t *Timing) Last(after, until time.Time) (time.Time, bool) {
	from, to := after.Unix(), min(until.Unix(), t.end)
	s, ok := t.next(from, false)
	if !ok || s.at > to {
		return time.Time{}, false
	}
	for low, high := s.at, to; ; {
		// There is a slot at low, and none after high.
		middle := low + (high-low)/2
		if middle == low {
			if s, ok := t.next(low, false); ok && s.at <= high {
				return at(s.at), true
			}
			return at(low), true
		}
		if s, ok := t.next(middle, false); ok && s.at <= high {
			low = s.at
		} else if s, ok := t.next(low, false); ok && s.at <= middle {
			low, high = s.at, middle
		} else {
			return at(low), true
		}
	}
}

// next returns the first slot after a time, with those that are skipped if asked for.
func (t *Timing) next(after int64, withSkipped bool) (first slot, ok bool) {
	after = max(after, t.start-1)
	segments := segmentReader{timing: t}
	for _, e := range t.expressions {
		s, found := t.nextOf(e, after, withSkipped, &segments)
		if found && s.at <= t.end && (!ok || s.at < first.at || s.at == first.at && !s.skipped) {
			first, ok = s, true
		}
	}
	return first, ok
}

// horizon is the longest time without a match: 29 February, from 2096 to 2104.
const horizon = 9 * 366 * day

// nextOf returns the first slot of one expression after a time.
func (t *Timing) nextOf(e *Expression, after int64, withSkipped bool, segments *segmentReader) (slot, bool) {
	for s := segments.at(after); s.start <= after+horizon; s = segments.at(s.end) {
		if s.start > after && s.before < s.offset && !e.everyHour {
			if found, ok := t.inGap(e, s); ok && (withSkipped || !found.skipped) {
				return found, true
			}
		}
		from, until := max(after+1, s.start), min(s.end, after+horizon)
		if !e.everyHour && !e.minutely && t.fold != FoldBoth {
			if t.fold == FoldSecond {
				until = min(until, s.end+s.after-s.offset)
			} else {
				from = max(from, s.start+s.before-s.offset)
			}
		}
		if wall, ok := e.next(from+s.offset, until+s.offset); ok {
			return slot{at: wall - s.offset}, true
		}
		if s.end == math.MaxInt64>>1 {
			break
		}
	}
	return slot{}, false
}

// inGap returns the slot at the end of the gap before a segment, if an expression has a time in it.
// If it has one at the end anyway, the two are one.
func (t *Timing) inGap(e *Expression, s segment) (slot, bool) {
	if _, ok := e.next(s.start+s.before, s.start+s.offset); !ok {
		return slot{}, false
	}
	_, ordinary := e.next(s.start+s.offset, s.start+s.offset+1)
	return slot{at: s.start, skipped: t.gap == GapSkip && !ordinary}, true
}

// segment is a time during which the offset of a zone does not change: [start, end).
//
//	wall clock = time + offset
//	a gap before it:  offset > before; a fold: offset < before
type segment struct {
	start, end            int64
	before, offset, after int64 // offsets from UTC, in seconds
}

// segmentReader remembers the last segment, as most questions are about the same one: to ask a zone
// costs more than to find a slot.
type segmentReader struct {
	timing *Timing
	last   segment
}

func (r *segmentReader) at(at int64) segment {
	if at < r.last.start || at >= r.last.end { // so is any time at first
		r.last = r.timing.segmentAt(at)
	}
	return r.last
}

func (t *Timing) segmentAt(at int64) segment {
	begin, end := time.Unix(at, 0).In(t.zone).ZoneBounds()
	s := segment{start: math.MinInt64 >> 1, end: math.MaxInt64 >> 1, offset: t.offsetAt(at)}
	s.before, s.after = s.offset, s.offset
	if !begin.IsZero() {
		s.start = begin.Unix()
		s.before = t.offsetAt(s.start - 1)
	}
	if !end.IsZero() {
		s.end = end.Unix()
		if s.end <= at { // Go's bounds lack the last day of a leap year beyond 2037
			s.end = at + day
		}
		s.after = t.offsetAt(s.end)
	}
	return s
}

func (t *Timing) offsetAt(at int64) int64 {
	_, offset := time.Unix(at, 0).In(t.zone).Zone()
	return int64(offset)
}

// Jitter returns the delay of a slot: a time up to most, the same whenever it is asked for.
func Jitter(uid string, slot time.Time, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(uid + "/" + strconv.FormatInt(slot.Unix(), 10)))
	// Equal texts but for the last digits have sums that differ little in their high bits.
	mixed := hash.Sum64() * 0x9e3779b97f4a7c15
	mixed ^= mixed >> 32
	return time.Duration(mixed%uint64(most/time.Millisecond+1)) * time.Millisecond
}

func at(unix int64) time.Time { return time.Unix(unix, 0).UTC() }
