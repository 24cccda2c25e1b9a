package dryrun

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A step's name may be anything, and there may be many.
func TestResult_P7_FitsIntoTheMessageOfAContainer(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"step", strings.Repeat("x", 5000), strings.Repeat("\x00", 300), strings.Repeat("\"<", 300), strings.Repeat("é", 300), "\xff\xfe"} {
		var report Report
		for i := range 1000 {
			text := fmt.Sprint(name, i)
			report.Kept = append(report.Kept, text)
			report.NotAsked = append(report.NotAsked, text)
			report.Next = append(report.Next, Step{Name: text, Kind: "signal-wait"})
			report.OtherKind = append(report.OtherKind, text)
		}
		result := NewResult(name, name, name, &report)
		result.Problem = strings.Repeat(name, 10)
		encoded := result.Encode()
		var got Result
		if err := json.Unmarshal(encoded, &got); err != nil || len(encoded) > maxEncoded {
			t.Errorf("%.20q: %d bytes, %v", name, len(encoded), err)
		}
		if got.Kept != 1000 || len(got.Next)+got.NextMore != 1000 || len(got.NotAsked)+got.NotAskedMore != 1000 || len(got.OtherKind)+got.OtherKindMore != 1000 {
			t.Errorf("%.20q: the result counts wrongly: %+v", name, got)
		}
	}
}

func TestParseRequest_P7_SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{`:    "the request is not one of a dry run: unexpected end of JSON input",
		`[]`:   "the request is not one of a dry run: json: cannot unmarshal array",
		`{}`:   "the request names no run",
		`null`: "the request names no run",
	} {
		if _, err := ParseRequest(text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	r, err := ParseRequest(`{"runID":"r","step":"","outputs":{"a":1},"input":null}`)
	if err != nil || r.RunID != "r" || *r.Step != "" || string(r.Outputs["a"]) != "1" {
		t.Errorf("the request is %+v, %v", r, err)
	}
}
