package store

import (
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
)

// claimCursors are the positions in the index ranges from which claims read. While more
// runs are due than one claim takes, each claim continues at the position where the one
// before it stopped. At the start of a range the index still has an entry for each run
// that was claimed since the last vacuum.
//
// A run may become due before a cursor. It is found a moment later: at least one claim in
// each maxCursorAge reads from the start, and so does each claim after one that found
// less than it asked for.
//
// Some entries cannot be removed: while a transaction of anybody is open, Postgres keeps all
// that it may still see. Then the ranges grow, by a hundred thousand entries a minute, and to read
// them from the start takes longer and longer. So a pause follows (startPauses), in which claims read
// on from where ranges ended, less a cursorMargin.
type claimCursors struct {
	mu     sync.Mutex
	ranges map[rangeKey]time.Time
	// exhausted says that the last claim found less than it asked for.
	exhausted bool
	startedAt time.Time // when a claim read from the start last
	// starts are how long the last claims from the start took, and usual is the average of the
	// others, of which the last count most.
	starts [4]time.Duration
	usual  time.Duration
	number int // of claims from the start
	// ahead is by how much the server's clock is ahead of this one, or less, once a claim has told.
	ahead      time.Duration
	aheadKnown bool
}

const (
	// maxCursorAge is the longest time between two claims that read from the start, if that is cheap.
	maxCursorAge = 250 * time.Millisecond
	// startPauses is how many times as long as it took beyond a usual claim one from the start is followed
	// by a pause, if that is more than cheapStart and than the usual claim: 20 make it a twentieth of the
	// time. maxStartPause bounds the pause.
	startPauses   = 20
	cheapStart    = 5 * time.Millisecond
	maxStartPause = 5 * time.Second
	// cursorMargin is how long the transaction may take that makes a run due, if other runs are to be
	// claimed no sooner than it.
	cursorMargin = 250 * time.Millisecond
)

// rangeKey identifies a range: of the new runs, or of those due again, of one workflow and
// version.
type rangeKey struct {
	openworkflow.DefinitionKey
	again bool
}

// positions returns where a claim of these workflows reads from, and whether that is the
// start of every range.
func (c *claimCursors) positions(keys []openworkflow.DefinitionKey, now time.Time) (again, pending []pgtype.Timestamptz, fromStart bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	age, pause := now.Sub(c.startedAt), c.startPause()
	// How long a usual claim takes must be known before one from the start can be called slow: the
	// database may be far away.
	isUnmeasured := c.usual == 0 && c.fastestStart() >= cheapStart
	fromStart = len(c.ranges) == 0 || !isUnmeasured && (age > max(maxCursorAge, pause) || c.exhausted && age >= pause)
	if fromStart {
		c.startedAt = now
		clear(c.ranges) // what this claim does not read is still unknown
	}
	position := func(key openworkflow.DefinitionKey, again bool) pgtype.Timestamptz {
		if at, ok := c.ranges[rangeKey{key, again}]; ok {
			return pgtype.Timestamptz{Time: at, Valid: true}
		}
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	for _, key := range keys {
		again, pending = append(again, position(key, true)), append(pending, position(key, false))
	}
	return again, pending, fromStart
}

// fastestStart is how long the fastest of the last claims from the start took. One fast claim is enough
// to call them cheap, as much else makes claims slow.
func (c *claimCursors) fastestStart() time.Duration {
	fastest := c.starts[0]
	for _, took := range c.starts[1:] {
		fastest = min(fastest, took)
	}
	return fastest
}

// startPause is the time after which ranges may be read from the start again.
func (c *claimCursors) startPause() time.Duration {
	cost := c.fastestStart() - c.usual
	if c.usual == 0 || cost < max(cheapStart, c.usual) {
		return 0
	}
	return min(startPauses*cost, maxStartPause)
}

// rangesRead is what a claim has read.
type rangesRead struct {
	// keys are the workflows in the order in which their ranges were read, and maxDue is the latest
	// instant that was claimed from each range.
	keys   []openworkflow.DefinitionKey
	maxDue map[rangeKey]time.Time
	// gotAll says that the claim found as many runs as it asked for, and gotAllAgain that it found
	// its share of those due again.
	gotAll, gotAllAgain bool
	// at is the claim's instant by the server's clock, zero if the claim did not tell. Ranges that
	// were exhausted were read up to it.
	at           time.Time
	fromStart    bool
	began, ended time.Time
}

// advance sets the cursors to what a claim has read. It reports whether the starts of ranges are
// to be read now.
func (c *claimCursors) advance(read rangesRead) (lookAgain bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := read.ended.Sub(read.began)
	if read.fromStart {
		c.starts[c.number%len(c.starts)] = took
		c.number++
	} else if c.usual == 0 {
		c.usual = max(took, 1)
	} else {
		c.usual += (took - c.usual) / 8
	}
	if !read.at.IsZero() {
		c.ahead, c.aheadKnown = read.at.Sub(read.ended), true
	} else if c.aheadKnown {
		read.at = read.began.Add(c.ahead)
	}
	if c.ranges == nil {
		c.ranges = map[rangeKey]time.Time{}
	}
	maps.Copy(c.ranges, read.maxDue)
	c.exhaust(read, false, !read.gotAll)
	c.exhaust(read, true, !read.gotAll || !read.gotAllAgain)
	c.exhausted = !read.gotAll
	return c.exhausted && !read.fromStart && read.ended.Sub(c.startedAt) >= c.startPause()
}

// exhaust sets the cursors of ranges that a claim has read to their ends: all, or those before the
// last of which it has claimed a run. While reads from the start are cheap, the next claim reads these
// ranges from the start.
func (c *claimCursors) exhaust(read rangesRead, again, all bool) {
	if read.at.IsZero() || c.fastestStart() < cheapStart {
		return
	}
	n := len(read.keys)
	for ; !all && n > 0; n-- {
		if _, ok := read.maxDue[rangeKey{read.keys[n-1], again}]; ok {
			break
		}
	}
	for i, key := range read.keys[:n] {
		if all || i < n-1 {
			c.ranges[rangeKey{key, again}] = read.at.Add(-cursorMargin)
		}
	}
}
