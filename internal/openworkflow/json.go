package openworkflow

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// Column returns the value for a JSON column. It returns nil, which is SQL NULL, for no value
// and for the JSON value null (R20).
func Column(value json.RawMessage) json.RawMessage {
	trimmed := bytes.TrimSpace(value)
	if len(trimmed) == 0 || bytes.Equal(trimmed, []byte("null")) {
		return nil
	}
	return value
}

// maxPlainDepth is a depth of nesting that Postgres always parses.
const maxPlainDepth = 500

// Plain reports whether Postgres is sure to store a valid JSON text in a jsonb column. To be
// on the safe side it reports false for uncommon escapes (U+0000 and lone surrogates cannot be
// stored), for numbers with an exponent, and for very deep or very large values. What is not UTF-8,
// which encoding/json lets pass in a json.RawMessage, cannot be stored.
func Plain(value []byte) bool {
	const maxSize = 100_000 // below the largest number of digits too
	if len(value) > maxSize {
		return false
	}
	depth, inString := 0, false
	var bits byte // of all bytes: most values are ASCII, which is UTF-8
	for i := 0; i < len(value); i++ {
		bits |= value[i]
		switch c := value[i]; {
		case c == '\\':
			i++
			if i == len(value) || value[i] == 'u' && !plainEscape(value[i+1:]) {
				return false
			}
		case c == '"':
			inString = !inString
		case inString:
			if c < 0x20 {
				return false
			}
		case c == '{' || c == '[':
			if depth++; depth > maxPlainDepth {
				return false
			}
		case c == '}' || c == ']':
			depth--
		case (c == 'e' || c == 'E') && i > 0 && value[i-1] >= '0' && value[i-1] <= '9':
			return false
		}
	}
	return bits < utf8.RuneSelf || utf8.Valid(value)
}

// plainEscape reports whether the four digits after \u are among those that Go's encoder
// writes: for <, > and &, for control characters except U+0000, and for U+2028 and U+2029.
func plainEscape(digits []byte) bool {
	if len(digits) < 4 {
		return false
	}
	switch code := string(digits[:4]); code {
	case "0000":
		return false
	case "2028", "2029":
		return true
	default:
		return code[:2] == "00"
	}
}

const lowerHex = "0123456789abcdef"

// appendJavaScriptString appends s as JavaScript's JSON.stringify writes it: it escapes only
// quotes, backslashes and control characters (R52). Go's encoder also escapes <, >, &, U+2028
// and U+2029.
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
