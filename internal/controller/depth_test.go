package controller

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestShallowBody_CutsOnlyWhatIsTooDeep(t *testing.T) {
	t.Parallel()
	nested := func(depth int) string { return strings.Repeat(`[1,{"a":`, depth) + "1" + strings.Repeat("}]", depth) }
	for name, test := range map[string]struct{ sent, want string }{
		"shallow":   {`{"items":[{"a":"}]\"[{"},{}]} {"type":"ADDED"}`, `{"items":[{"a":"}]\"[{"},{}]} {"type":"ADDED"}`},
		"as deep":   {nested(maxAnswerDepth / 2), nested(maxAnswerDepth / 2)},
		"too deep":  {`[` + nested(maxAnswerDepth/2) + `,2]`, `[` + strings.Replace(nested(maxAnswerDepth/2), `{"a":1}`, "null", 1) + `,2]`},
		"in a text": {`"` + strings.Repeat("[", 3*maxAnswerDepth) + `"`, `"` + strings.Repeat("[", 3*maxAnswerDepth) + `"`},
	} {
		for reader, from := range map[string]io.Reader{"at once": strings.NewReader(test.sent), "byte by byte": iotest.OneByteReader(strings.NewReader(test.sent))} {
			got, err := io.ReadAll(&shallowBody{from: bufio.NewReader(from)})
			if err != nil || string(got) != test.want {
				t.Errorf("%s, %s: got %d bytes (%v), want %d", name, reader, len(got), err, len(test.want))
			}
		}
	}
	deep := `{"a":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + `}`
	got, err := io.ReadAll(&shallowBody{from: bufio.NewReader(strings.NewReader(deep))})
	if err != nil || !json.Valid(got) {
		t.Errorf("what is left of 10,001 levels is no JSON: %v", err)
	}
}
