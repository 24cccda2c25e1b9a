package openworkflow

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"time"
)

// ids has the leading 60 bits of the last id: 48 bits of milliseconds, and 12 bits that start
// at the fraction of the millisecond and count up.
var ids struct {
	sync.Mutex
	last uint64
}

// NewID returns a random id for a row, a UUID of version 7. The ids of one process increase,
// so rows that are created in one millisecond keep their order (R71), and rows created close
// in time are close in the index.
func NewID() string {
	now := time.Now()
	milli := uint64(now.UnixMilli())
	fraction := uint64(now.Nanosecond()%int(time.Millisecond)) << 12 / uint64(time.Millisecond)
	lead := milli<<12 | fraction

	ids.Lock()
	lead = max(lead, ids.last+1)
	ids.last = lead
	ids.Unlock()

	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], lead>>12<<16|0x7000|lead&0xfff)
	_, _ = rand.Read(id[8:]) // never fails
	id[8] = id[8]&0x3f | 0x80

	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:36], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
