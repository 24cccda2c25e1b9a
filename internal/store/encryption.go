package store

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrInvalidCA means that Options.CA holds no certificate.
var ErrInvalidCA = errors.New("no certificate in PEM form")

// Encryption says how connections are protected, on top of what the URL says.
type Encryption struct {
	// Mode is libpq's sslmode, for a URL that has none. A URL with another one is invalid. Empty
	// means that of the URL. With a CA, it then means verify-full.
	Mode string
	// CA are the certificates, in PEM form, of those who may sign that of the server. With them,
	// the mode require means verify-ca, as with libpq. Empty means the system's.
	CA []byte
}

// ModeOf returns libpq's sslmode of the connections to a URL, empty if nothing says it. It returns
// ErrInvalidURL if Mode contradicts the URL. The CA counts if it is not empty.
func (e Encryption) ModeOf(rawURL string) (string, error) {
	_, query, err := splitURL(strings.TrimSpace(rawURL))
	if err != nil {
		return "", err
	}
	mode := queryMode(query)
	switch {
	case e.Mode != "" && mode != "" && mode != e.Mode:
		return "", fmt.Errorf("%w: its sslmode is not that of the Backend (spec.postgres.sslMode: %s); remove one of them", ErrInvalidURL, e.Mode)
	case mode == "":
		mode = e.Mode
	}
	switch {
	case len(e.CA) == 0:
		return mode, nil
	case mode == "":
		return "verify-full", nil
	case mode == "require":
		return "verify-ca", nil
	default:
		return mode, nil
	}
}

// queryMode returns the sslmode among the parameters of a URL, of which the last one counts.
func queryMode(query string) (mode string) {
	for pair := range strings.SplitSeq(query, "&") {
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, nameErr := url.PathUnescape(strings.Trim(rawName, " "))
		value, valueErr := url.PathUnescape(strings.Trim(rawValue, " "))
		switch {
		case nameErr != nil || valueErr != nil: // pgx refuses it
		case name == "sslmode":
			mode = value
		case name == "ssl" && value == "true" && mode == "":
			mode = "require"
		case name == "sslrootcert" && value == "system":
			mode = "verify-full"
		}
	}
	return mode
}

// trust makes the connections of a configuration accept only servers that the CA has signed for,
// where its sslmode asks for a check.
func (e Encryption) trust(config *pgconn.Config) error {
	if len(e.CA) == 0 {
		return nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(e.CA) {
		return ErrInvalidCA
	}
	set := func(c *tls.Config) {
		if c != nil {
			c.RootCAs = pool
		}
	}
	set(config.TLSConfig)
	for _, f := range config.Fallbacks {
		set(f.TLSConfig)
	}
	return nil
}

// Encrypted reports whether the last connection that was opened is encrypted.
func (s *Store) Encrypted() bool { return s.encrypted.Load() }

// observeEncryption remembers whether a new connection is encrypted.
func (s *Store) observeEncryption(conn *pgx.Conn) {
	_, encrypted := conn.PgConn().Conn().(*tls.Conn)
	s.encrypted.Store(encrypted)
}
