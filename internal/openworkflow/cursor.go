package openworkflow

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Cursor is a position in a list: that of the item with this creation time and this id. Its
// text is OpenWorkflow's, so a list that was started there can be continued here (R131).
type Cursor struct {
	CreatedAt time.Time
	ID        string
}

// ErrInvalidCursor is the error for a text that is not a cursor.
var ErrInvalidCursor = errors.New("invalid cursor")

// String returns the cursor's text.
func (c Cursor) String() string {
	var b strings.Builder
	b.WriteString(`{"createdAt":`)
	appendJavaScriptString(&b, FormatTime(c.CreatedAt))
	b.WriteString(`,"id":`)
	appendJavaScriptString(&b, c.ID)
	b.WriteByte('}')
	return base64.StdEncoding.EncodeToString([]byte(b.String()))
}

// ParseCursor reads a cursor's text.
func ParseCursor(text string) (Cursor, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return Cursor{}, fmt.Errorf("%w: %w", ErrInvalidCursor, err)
	}
	var members struct {
		CreatedAt *string `json:"createdAt"`
		ID        *string `json:"id"`
	}
	if err := json.Unmarshal(raw, &members); err != nil {
		return Cursor{}, fmt.Errorf("%w: %w", ErrInvalidCursor, err)
	}
	if members.CreatedAt == nil || members.ID == nil {
		return Cursor{}, fmt.Errorf("%w: it has no createdAt or no id", ErrInvalidCursor)
	}
	at, err := ParseTime(*members.CreatedAt)
	if err != nil {
		return Cursor{}, fmt.Errorf("%w: %w", ErrInvalidCursor, err)
	}
	return Cursor{CreatedAt: at, ID: *members.ID}, nil
}
