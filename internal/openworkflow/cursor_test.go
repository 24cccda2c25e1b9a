package openworkflow

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"
)

func TestCursor_R131(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Cursors []struct {
			CreatedAt  time.Time
			ID, Cursor string
		}
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors.Cursors) == 0 {
		t.Fatal("no vectors")
	}
	for _, v := range vectors.Cursors {
		c := Cursor{CreatedAt: v.CreatedAt, ID: v.ID}
		if got := c.String(); got != v.Cursor {
			t.Errorf("%+v is %s, want %s", c, got, v.Cursor)
		}
		if got, err := ParseCursor(v.Cursor); err != nil || got != c {
			t.Errorf("%s reads as %+v, %v, want %+v", v.Cursor, got, err, c)
		}
	}
}

func TestCursor_ReadsWhatItWrites(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", `<"é\>&` + "\u2028\n", "☃"} {
		c := Cursor{CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC), ID: id}
		if got, err := ParseCursor(c.String()); err != nil || got != c {
			t.Errorf("%q reads as %+v, %v", id, got, err)
		}
	}
}

func TestParseCursor_P7_RefusesWhatIsNone(t *testing.T) {
	t.Parallel()
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for _, text := range []string{
		"", "%", encoded(``), encoded(`null`), encoded(`[]`), encoded(`{"id":"x"}`), encoded(`{"createdAt":"2026-01-01T00:00:00.000Z"}`),
		encoded(`{"createdAt":"soon","id":"x"}`), encoded(`{"createdAt":1,"id":"x"}`),
	} {
		if c, err := ParseCursor(text); !errors.Is(err, ErrInvalidCursor) {
			t.Errorf("%q reads as %+v, %v", text, c, err)
		}
	}
}
