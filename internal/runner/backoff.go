package runner

import (
	"math/rand/v2"
	"time"
)

// backoff yields growing delays with jitter, for trouble that passes by itself.
type backoff struct{ delay time.Duration }

const (
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

func newBackoff() *backoff { return &backoff{delay: firstBackoff} }

func (b *backoff) next() time.Duration {
	d := b.delay/2 + rand.N(b.delay/2+1)
	b.delay = min(2*b.delay, lastBackoff)
	return d
}
