package openworkflow

import (
	"bytes"
	"encoding/json"
	"strings"
)

// Column returns the value as it belongs in a JSON column: nil, which is SQL
// NULL, for no value and for the JSON value null (R20).
func Column(value json.RawMessage) json.RawMessage {
	trimmed := bytes.TrimSpace(value)
	if len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null")) {
		return nil
	}
	return value
}

const lowerHex = "0123456789abcdef"

// appendJavaScriptString appends s as JavaScript's JSON.stringify writes it:
// only quotes, backslashes and control characters are escaped (R52). Go's
// encoder also escapes <, >, &, U+2028 and U+2029.
func appendJavaScriptString(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\f':
			b.WriteString(`\f`)
		case r == '\r':
			b.WriteString(`\r`)
		case r < 0x20:
			b.WriteString(`\u00`)
			b.WriteByte(lowerHex[r>>4])
			b.WriteByte(lowerHex[r&0xf])
		default:
			b.WriteRune(r) // invalid UTF-8 arrives here as U+FFFD
		}
	}
	b.WriteByte('"')
}
