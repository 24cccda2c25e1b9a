package schedulespec

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// maxName is how much of a schedule's name is in those of its runs.
	maxName = 230
	// slotFormat is the time of a slot in the name of a run, in UTC.
	slotFormat = "-20060102-150405"
	// suffixLength is the length of a suffix.
	suffixLength = 6
	// Manual is the suffix of a run that somebody has started at a time of their own.
	Manual = "manual"
)

// BackfillSuffix returns the suffix of the runs of a backfill.
func BackfillSuffix(backfill string) string {
	sum := sha256.Sum256([]byte(backfill))
	return hex.EncodeToString(sum[:suffixLength/2])
}

// RunName returns the name of the run of a slot. The suffix is empty for a slot that has started when
// it was due. Names of later slots are greater. No two managers, and no manager twice, can create two
// objects of one name.
func RunName(schedule string, slot time.Time, suffix string) string {
	if len(schedule) > maxName {
		sum := sha256.Sum256([]byte(schedule))
		schedule = strings.TrimRight(schedule[:maxName-9], ".-") + "-" + hex.EncodeToString(sum[:4])
	}
	name := schedule + slot.UTC().Format(slotFormat)
	if suffix != "" {
		name += "-" + suffix
	}
	return name
}

// ParseRunName returns the slot of a run and the suffix of its name, false if the name is none of the
// schedule's.
func ParseRunName(schedule, run string) (slot time.Time, suffix string, ok bool) {
	for _, length := range []int{0, suffixLength + 1} {
		end := len(run) - length
		if end < len(slotFormat) {
			continue
		}
		at, err := time.Parse(slotFormat, run[end-len(slotFormat):end])
		if err != nil {
			continue
		}
		suffix := strings.TrimPrefix(run[end:], "-")
		if run == RunName(schedule, at, suffix) {
			return at, suffix, true
		}
	}
	return time.Time{}, "", false
}

// LabelValue returns the name of a schedule as the value of a label: a short form with a hash if it is too long.
func LabelValue(name string) string {
	if len(validation.IsValidLabelValue(name)) == 0 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	suffix := "-" + hex.EncodeToString(sum[:4])
	name = name[:min(len(name), validation.LabelValueMaxLength-len(suffix))]
	return strings.TrimRight(strings.ReplaceAll(name, ".", "-"), "-") + suffix
}
