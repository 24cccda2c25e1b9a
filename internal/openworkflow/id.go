package openworkflow

import (
	"crypto/rand"
	"crypto/sha256"
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
	_, _ = rand.Read(id[8:]) // never fails
	return version7(id, lead>>12, lead&0xfff)
}

// DerivedID returns the id that follows from the texts, a UUID of version 7 with this time. Whoever
// computes it again gets the same one, so a row that is inserted under it is inserted once.
func DerivedID(at time.Time, texts ...string) string {
	hash := sha256.New()
	for _, text := range texts {
		hash.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		hash.Write([]byte(text))
	}
	sum := hash.Sum(nil)
	return version7([16]byte(sum), uint64(max(at.UnixMilli(), 0)), uint64(binary.BigEndian.Uint16(sum[16:])))
}

// version7 returns the text of a UUID whose second half is that of id, apart from the variant.
func version7(id [16]byte, milli, twelve uint64) string {
	binary.BigEndian.PutUint64(id[:8], milli<<16|0x7000|twelve&0xfff)
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
