package schedulespec

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"time"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// InDatabase is the value of spec.runs for runs without WorkflowRuns.
const InDatabase = "InDatabase"

// IsInDatabase reports whether the runs of a schedule have no WorkflowRuns.
func IsInDatabase(s *v1alpha1.WorkflowSchedule) bool { return s.Spec.Runs == InDatabase }

// NameOf returns what identifies the run of a slot: the name of its WorkflowRun, or the id of its row.
// See RunName for the suffix. What it returns for later slots is greater.
func NameOf(s *v1alpha1.WorkflowSchedule, slot time.Time, suffix string) string {
	if IsInDatabase(s) {
		return RunID(string(s.UID), slot, suffix)
	}
	return RunName(s.Name, slot, suffix)
}

// ParseName is the inverse of NameOf, false for what identifies no run of the schedule. Of the runs
// of backfills in the database it knows those of the requests in the spec.
func ParseName(s *v1alpha1.WorkflowSchedule, name string) (slot time.Time, suffix string, ok bool) {
	if !IsInDatabase(s) {
		return ParseRunName(s.Name, name)
	}
	slot, ok = slotOfID(name)
	if !ok {
		return time.Time{}, "", false
	}
	for _, suffix := range suffixes(s) {
		if RunID(string(s.UID), slot, suffix) == name {
			return slot, suffix, true
		}
	}
	return time.Time{}, "", false
}

// suffixes returns those that runs in the database may have: none, and those of the backfills.
func suffixes(s *v1alpha1.WorkflowSchedule) []string {
	all := []string{""}
	for i := range s.Spec.Backfills {
		all = append(all, BackfillSuffix(s.Spec.Backfills[i].Name))
	}
	return all
}

// RunID returns the id of the run of a slot of the schedule with this uid: a UUID of version 8. It
// begins with the milliseconds of the slot since 1970, as one of version 7 begins with its creation.
// The rest is a hash of uid, slot and suffix. So the second insert of a slot's run meets the first.
func RunID(uid string, slot time.Time, suffix string) string {
	var id [16]byte
	sum := sha256.Sum256([]byte(uid + slot.UTC().Format(slotFormat) + "-" + suffix))
	copy(id[6:], sum[:])
	var at [8]byte
	binary.BigEndian.PutUint64(at[:], uint64(slot.Unix()*1000))
	copy(id[:6], at[2:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	text := hex.EncodeToString(id[:])
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

// slotOfID returns the slot at which the id of a run begins.
func slotOfID(id string) (time.Time, bool) {
	raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	if err != nil || len(raw) != 16 {
		return time.Time{}, false
	}
	var at [8]byte
	copy(at[2:], raw[:6])
	milliseconds := int64(binary.BigEndian.Uint64(at[:])<<16) >> 16 // before 1970 it is negative
	return time.UnixMilli(milliseconds).UTC(), true
}
