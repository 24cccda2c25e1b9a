package memstore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/openworkflow-operator/operator/internal/openworkflow"
	"github.com/openworkflow-operator/operator/internal/store"
)

// jsonb returns a value as a jsonb column of Postgres returns it, nil for SQL NULL (R20, R22).
// It returns store.ErrInvalidJSON for a value that Postgres refuses (R23).
func jsonb(value json.RawMessage) (json.RawMessage, error) {
	value = openworkflow.Column(value)
	if value == nil {
		return nil, nil
	}
	if err := storable(value); err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var b strings.Builder
	if err := canonical(&b, d); err != nil {
		return nil, err
	}
	return json.RawMessage(b.String()), nil
}

// storable refuses the values that encoding/json accepts and Postgres does not.
func storable(value json.RawMessage) error {
	switch {
	case !json.Valid(value):
		return fmt.Errorf("%w: invalid input syntax for type json", store.ErrInvalidJSON)
	case !utf8.Valid(value):
		return fmt.Errorf("%w: invalid byte sequence for encoding UTF8", store.ErrInvalidJSON)
	}
	for i := 0; i < len(value); i++ {
		if value[i] != '\\' { // a backslash is always inside a string
			continue
		}
		i++
		if value[i] != 'u' {
			continue
		}
		r := hex(value[i+1:])
		i += 4
		switch {
		case r == 0:
			return fmt.Errorf(`%w: unsupported Unicode escape sequence: \u0000 cannot be converted to text`, store.ErrInvalidJSON)
		case !utf16.IsSurrogate(r):
			continue
		}
		rest := value[i+1:]
		if len(rest) < 6 || rest[0] != '\\' || rest[1] != 'u' || utf16.DecodeRune(r, hex(rest[2:])) == utf8.RuneError {
			return fmt.Errorf("%w: invalid input syntax for type json: unpaired Unicode surrogate", store.ErrInvalidJSON)
		}
		i += 6
	}
	return nil
}

// hex reads the four hexadecimal digits of an escape in valid JSON.
func hex(b []byte) rune {
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	if err != nil { // see storable
		return utf8.RuneError
	}
	return rune(n)
}

// canonical writes the next value of valid JSON as Postgres prints it.
func canonical(b *strings.Builder, d *json.Decoder) error {
	token, err := d.Token()
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrInvalidJSON, err)
	}
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			return canonicalArray(b, d)
		}
		return canonicalObject(b, d)
	case json.Number:
		number, err := numeric(token.String())
		b.WriteString(number)
		return err
	case string:
		quote(b, token)
	case bool:
		b.WriteString(strconv.FormatBool(token))
	case nil:
		b.WriteString("null")
	}
	return nil
}

func canonicalArray(b *strings.Builder, d *json.Decoder) error {
	b.WriteByte('[')
	for first := true; d.More(); first = false {
		if !first {
			b.WriteString(", ")
		}
		if err := canonical(b, d); err != nil {
			return err
		}
	}
	b.WriteByte(']')
	_, err := d.Token()
	return err
}

// canonicalObject orders members by the length of their names, then by bytes. Of members of
// one name the last counts.
func canonicalObject(b *strings.Builder, d *json.Decoder) error {
	members := map[string]string{}
	var names []string
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		name := token.(string)
		var value strings.Builder
		if err := canonical(&value, d); err != nil {
			return err
		}
		if _, twice := members[name]; !twice {
			names = append(names, name)
		}
		members[name] = value.String()
	}
	slices.SortFunc(names, func(x, y string) int {
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
	b.WriteByte('{')
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		quote(b, name)
		b.WriteString(": ")
		b.WriteString(members[name])
	}
	b.WriteByte('}')
	_, err := d.Token()
	return err
}

// quote writes a string with the escapes that Postgres uses.
func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c == '\b':
			b.WriteString(`\b`)
		case c == '\f':
			b.WriteString(`\f`)
		case c == '\n':
			b.WriteString(`\n`)
		case c == '\r':
			b.WriteString(`\r`)
		case c == '\t':
			b.WriteString(`\t`)
		case c < ' ':
			fmt.Fprintf(b, `\u%04x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}

// Limits of the type numeric: digits before and after the point.
const (
	maxInteger  = 131072
	maxFraction = 16383
)

// numeric prints a JSON number as Postgres does: without an exponent, and with as
// many digits after the point as the text implies.
func numeric(text string) (string, error) {
	outOfRange := fmt.Errorf("%w: value overflows numeric format", store.ErrInvalidJSON)
	mantissa, exponent := text, 0
	if e := strings.IndexAny(text, "eE"); e >= 0 {
		var err error
		mantissa = text[:e]
		exponent, err = strconv.Atoi(strings.TrimPrefix(text[e+1:], "+"))
		if err != nil || max(exponent, -exponent) > 2*maxInteger {
			return "", outOfRange
		}
	}
	mantissa, negative := strings.CutPrefix(mantissa, "-")
	integer, fraction, _ := strings.Cut(mantissa, ".")
	digits := integer + fraction
	point := len(integer) + exponent // where it stands in digits
	scale := max(0, len(fraction)-exponent)
	leading := len(digits) - len(strings.TrimLeft(digits, "0"))
	digits, point = digits[leading:], point-leading
	if digits == "" {
		point = 0
	}
	if scale > maxFraction || point > maxInteger {
		return "", outOfRange
	}
	var b strings.Builder
	if negative && digits != "" {
		b.WriteByte('-')
	}
	at := func(i int) byte { // the digit at i, zero outside
		if i < 0 || i >= len(digits) {
			return '0'
		}
		return digits[i]
	}
	if point <= 0 {
		b.WriteByte('0')
	}
	for i := range point {
		b.WriteByte(at(i))
	}
	if scale > 0 {
		b.WriteByte('.')
		for i := range scale {
			b.WriteByte(at(point + i))
		}
	}
	return b.String(), nil
}
