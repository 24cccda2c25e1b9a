package schedule

import (
	"strings"
	"testing"
	"time"
)

func TestParse_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "it has 0 fields, and needs five",
		"0 0 * * * *":                          "it has 6 fields, and needs five: minute, hour, day of month, month, day of week (there are no seconds and no years)",
		"60 * * * *":                           `minute "60": "60" is no number from 0 to 59`,
		"* 24 * * *":                           `hour "24": "24" is no number from 0 to 23`,
		"* * 0 * *":                            `day of month "0": "0" is no number from 1 to 31`,
		"* * * foo *":                          `month "foo": "foo" is neither a number from 1 to 12 nor a name such as feb`,
		"* * * * 8":                            `day of week "8": "8" is neither a number from 0 to 7 nor a name such as mon`,
		"*/0 * * * *":                          "the step after / must be a number from 1 to 59",
		"*/99999999999999999999 * * * *":       "the step after / must be a number from 1 to 59",
		"22-5 * * * *":                         "the range 22-5 ends before it begins: write it as two, such as 22-23,0-5",
		"+1 * * * *":                           `"+1" is no number`,
		"1,,2 * * * *":                         `"" is no number`,
		"1-2-3 * * * *":                        `"2-3" is no number`,
		"0 0 30 2 *":                           "it never happens: none of its months has a day 30",
		"0 0 31 2,4,6,9,11 *":                  "it never happens: none of its months has a day 31",
		"@every 5m":                            "use @yearly, @monthly, @weekly, @daily or @hourly, or five fields",
		"@reboot":                              "use @yearly",
		"TZ=UTC 0 0 * * *":                     "give the time zone in timeZone",
		"CRON_TZ=UTC 0 0 * * *":                "give the time zone in timeZone",
		"0 0 L * *":                            `"L" is no number`,
		strings.Repeat("0,", 64) + "0 * * * *": "the limit is 128",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestParse_EqualExpressions(t *testing.T) {
	t.Parallel()
	for text, same := range map[string]string{
		"@yearly": "0 0 1 1 *", "@Annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0", "@daily": "0 0 * * *",
		"@midnight": "0 0 * * *", "@hourly": "0 * * * *", "0 0 * JAN-mar Sun,sat": "0 0 * 1-3 0,6", "0 0 ? * 7": "0 0 * * 0",
		"0 0 * * 5-7": "0 0 * * 0,5,6", "5/20 * * * *": "5,25,45 * * * *", "  0   0 * *  * ": "0 0 * * *", "0 0 */1 * 1": "0 0 * * 1",
	} {
		a, err := Parse(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if b, err := Parse(same); err != nil || *a != *b {
			t.Errorf("%q is %+v, %q is %+v, %v", text, a, same, b, err)
		}
	}
}

// TestTiming_RareSlotsAreFoundAtOnce: 29 February may be eight years away, and a schedule may have
// ended. Neither makes a question long.
func TestTiming_RareSlotsAreFoundAtOnce(t *testing.T) {
	t.Parallel()
	leap, err := NewTiming(Options{Expressions: []string{"0 12 29 2 *"}, Zone: "America/New_York"})
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC)
	if next, ok := leap.Next(from); !ok || !next.Equal(time.Date(2104, 2, 29, 17, 0, 0, 0, time.UTC)) {
		t.Errorf("the next 29 February is %s, %t", next, ok)
	}
	begin := time.Now()
	for range 1000 {
		leap.Next(from)
	}
	if d := time.Since(begin); d > 10*time.Second { // it takes 0.05 s
		t.Errorf("1000 questions took %s", d)
	}
	ended, err := NewTiming(Options{Expressions: []string{"* * * * *"}, EndAt: from, StartAt: from.Add(-time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	if got := ended.Between(time.Unix(0, 0), from.AddDate(1, 0, 0), 10); len(got) != 2 || !got[0].Equal(from.Add(-time.Minute)) || !got[1].Equal(from) {
		t.Errorf("slots within bounds are %v", got)
	}
	if _, ok := ended.Next(from); ok {
		t.Error("there is a slot after the end")
	}
}

func TestNewTiming_RefusesZones(t *testing.T) {
	t.Parallel()
	for _, zone := range []string{"Local", "Europe/Nowhere", "../etc/passwd", "/etc/localtime", "America", "Europe/Berlin\x00", strings.Repeat("A", 100)} {
		_, err := NewTiming(Options{Expressions: []string{"@daily"}, Zone: zone})
		if err == nil || !strings.Contains(err.Error(), "is unknown: give the name of an IANA zone, such as Europe/Berlin or UTC") {
			t.Errorf("zone %q: %v", zone, err)
		}
	}
}

// TestTiming_ClockChanges: the rules of docs/schedules.md, at the changes of Berlin's clock in 2026:
// 29 March 02:00 to 03:00, 25 October 03:00 to 02:00.
func TestTiming_ClockChanges(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		expression string
		gap        Gap
		fold       Fold
		march, oct string // the local times of slots on that day, from midnight to six
	}{
		"fixed":            {"30 2 * * *", "", "", "03:00+02", "02:30+02"},
		"fixed, skip":      {"30 2 * * *", GapSkip, FoldSecond, "", "02:30+01"},
		"fixed, both":      {"30 2 * * *", GapRunAfter, FoldBoth, "03:00+02", "02:30+02 02:30+01"},
		"two in the gap":   {"15,45 2 * * *", "", "", "03:00+02", "02:15+02 02:45+02"},
		"end of the gap":   {"0 2,3 * * *", GapSkip, "", "03:00+02", "02:00+02 03:00+01"},
		"steps in an hour": {"*/30 2 * * *", "", "", "03:00+02", "02:00+02 02:30+02 02:00+01 02:30+01"},
		"hourly":           {"30 * * * *", "", "", "00:30+01 01:30+01 03:30+02 04:30+02 05:30+02", "00:30+02 01:30+02 02:30+02 02:30+01 03:30+01 04:30+01 05:30+01"},
		"untouched":        {"30 1 * * *", "", "", "01:30+01", "01:30+02"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timing, err := NewTiming(Options{Expressions: []string{test.expression}, Zone: "Europe/Berlin", Gap: test.gap, Fold: test.fold})
			if err != nil {
				t.Fatal(err)
			}
			for date, want := range map[string]string{"2026-03-29": test.march, "2026-10-25": test.oct} {
				begin, err := time.ParseInLocation(time.DateOnly, date, timing.zone)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, slot := range timing.Between(begin.Add(-1), begin.Add(7*time.Hour-time.Minute), 100) {
					if local := slot.In(timing.zone); local.Hour() < 6 {
						got = append(got, local.Format("15:04-07"))
					}
				}
				if got := strings.Join(got, " "); got != want {
					t.Errorf("%s: slots at %s, want %s", date, got, want)
				}
			}
		})
	}
}

func TestJitter_IsBoundedAndSpread(t *testing.T) {
	t.Parallel()
	slot, most := time.Unix(1<<31, 0), 100*time.Second
	var tenths [10]int
	for i := range 10000 {
		at := slot.Add(time.Duration(i) * time.Minute)
		delay := Jitter("uid", at, most)
		if delay < 0 || delay > most || delay != Jitter("uid", at, most) {
			t.Fatalf("the delay is %s", delay)
		}
		tenths[min(int(delay/(10*time.Second)), 9)]++
	}
	for i, n := range tenths {
		if n < 800 || n > 1200 {
			t.Errorf("%d of 10000 delays are in tenth %d", n, i)
		}
	}
	if Jitter("uid", slot, 0) != 0 {
		t.Error("there is a delay without jitter")
	}
}

// FuzzExpression: whatever an expression is, it is refused or its slots are found in bounded time,
// in order, and where the clock matches.
func FuzzExpression(f *testing.F) {
	for _, text := range []string{
		"* * * * *", "*/5 0-6/2 1,15 jan-mar MON", "0 0 29 2 *", "0 0 30 2 *", "59 23 31 12 7", "@daily", "0 0 ? * ?", "1-5/3,7 * * * *", "30 2 25-31 10,3 sun",
	} {
		f.Add(text, int64(1774700000), "Europe/Berlin")
		f.Add(text, int64(1775300000), "Australia/Lord_Howe")
	}
	f.Fuzz(func(t *testing.T, text string, from int64, zone string) {
		timing, err := NewTiming(Options{Expressions: []string{text}, Zone: zone})
		if err != nil {
			return
		}
		after := time.Unix(from%(1<<33), 0)
		slots := timing.Between(after, after.AddDate(20, 0, 0), 50)
		if len(slots) == 0 {
			t.Fatalf("%q in %q has no slot in 20 years", text, zone)
		}
		for i, slot := range slots {
			if !slot.After(after) || i > 0 && !slot.After(slots[i-1]) {
				t.Fatalf("%q in %q: slots are %v", text, zone, slots)
			}
		}
		last, ok := timing.Last(after, slots[len(slots)-1])
		if !ok || !last.Equal(slots[len(slots)-1]) {
			t.Fatalf("%q in %q: the last slot is %s, not %s", text, zone, last, slots[len(slots)-1])
		}
	})
}
