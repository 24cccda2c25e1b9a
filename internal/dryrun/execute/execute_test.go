package execute

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/replay"
)

func TestResult_HasNamesAndNoPayloads(t *testing.T) {
	t.Parallel()
	report := replay.Report{
		Replayed: []string{"a", "b"}, Next: []replay.Step{{Name: "c", Kind: openworkflow.KindFunction}}, NotAsked: []string{"d"},
		OtherKind: []replay.Mismatch{{Step: replay.Step{Name: "b"}, Recorded: openworkflow.KindSleep}},
		Ended:     true, Err: errors.New("card 4111 1111"), Output: json.RawMessage(`"secret"`),
	}
	got := Result(&openworkflow.Run{ID: "r", WorkflowName: "w", Version: new("2"), Input: json.RawMessage(`"secret"`)}, &report)
	want := `{"runID":"r","workflow":"w","version":"2","kept":2,"lastKept":["a","b"],"next":[{"name":"c","kind":"function"}],` +
		`"notAsked":["d"],"otherKind":["b"],"ended":true,"errorName":"Error"}`
	if diff := cmp.Diff(want, string(got.Encode())); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}
