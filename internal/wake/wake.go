// Package wake is the non-blocking signal of this module: many may ask for a wake-up,
// and those that come before the waiter looks become one.
package wake

// Flag is a wake-up for one waiter. Receive from it to wait and to clear it. A nil Flag
// is never set and blocks whoever waits for it.
type Flag chan struct{}

// New returns a Flag that is not set.
func New() Flag { return make(Flag, 1) }

// Set wakes the waiter, or the next receive if nobody waits. It never blocks, and does
// nothing if the flag is set already. Safe for concurrent use.
func (f Flag) Set() {
	select {
	case f <- struct{}{}:
	default:
	}
}
