package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Limits on the answer of an untrusted server, which is all that it sends between two writes
// to it. The largest answer to a statement of the manager has 3,000 rows and 8 MiB.
const (
	// maxMessage is the longest message of the protocol, in bytes: a row, or an error.
	maxMessage = 4 << 20
	// maxAnswer is the number of bytes, maxRows that of rows, and maxAside that of parameters,
	// notices and notifications, each of which pgx keeps or handles one by one.
	maxAnswer = 16 << 20
	maxRows   = 20_000
	maxAside  = 1_000
	// maxAuthentication is the length of a message about the login, in bytes, and maxIterations the
	// number of iterations of the hash in SCRAM that a server may ask for. Postgres asks for 4096. A
	// hundred thousand take some 50 ms of a core, and nothing can interrupt them.
	maxAuthentication = 8 << 10
	maxIterations     = 100_000
	// maxErrorText is the length of each text of an error, in bytes.
	maxErrorText = 2 << 10
)

var (
	errOversized  = errors.New("the server sent more than any answer has")
	errIterations = errors.New("the server asks for too many iterations of the password's hash")
)

// violation is the last answer that has passed a limit. pgx closes the connection then, and
// mostly returns only that it is closed.
type violation = atomic.Pointer[error]

// limitAnswers bounds what a server can make this process keep. It costs an addition for each
// read of the network, and a look at the header of each message.
func limitAnswers(config *pgconn.Config, dial pgconn.DialFunc, seen *violation) {
	if dial == nil {
		dialer := net.Dialer{Timeout: config.ConnectTimeout, KeepAlive: 15 * time.Second}
		dial = dialer.DialContext
	}
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &limitedConn{Conn: conn}, nil
	}
	config.MaxProtocolMessageBodyLen = maxMessage
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		limit := &answerReader{Reader: r, seen: seen}
		return pgproto3.NewFrontend(limit, &answerWriter{w, limit})
	}
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {} // by default, pgx collects them
}

// cutText cuts a text of the server to maxErrorText, into a copy that does not keep the rest.
func cutText(text string) string {
	if len(text) <= maxErrorText {
		return text
	}
	cut := maxErrorText
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strings.Clone(text[:cut]) + "…"
}

// limitedConn is a connection below TLS. While a write waits, pgx reads and keeps what the
// server sends, of which this is the limit.
type limitedConn struct {
	net.Conn
	received atomic.Int64
}

func (c *limitedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.received.Add(int64(n)) > 2*maxAnswer { // TLS adds to it
		return 0, errOversized
	}
	return n, err
}

func (c *limitedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.received.Store(0)
	return n, err
}

// answerReader reads the messages of a server, above TLS, and fails when an answer passes a
// limit. The writer that belongs to it starts the next answer.
type answerReader struct {
	io.Reader
	written atomic.Bool
	seen    *violation

	bytes, rows, asides int
	// header collects the type and the length of a message, and body is what is left of it.
	header [5]byte
	filled int
	body   int
	// login collects the body of a message about the login, as isLogin says.
	login   []byte
	isLogin bool
}

// answerWriter tells its reader about writes.
type answerWriter struct {
	io.Writer
	answers *answerReader
}

func (w *answerWriter) Write(p []byte) (int, error) {
	w.answers.written.Store(true)
	return w.Writer.Write(p)
}

func (r *answerReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.written.Swap(false) {
		r.bytes, r.rows, r.asides = 0, 0, 0
	}
	r.bytes += n
	if limit := r.count(p[:n]); limit != nil {
		r.seen.Store(&limit)
		return 0, limit
	}
	return n, err
}

// count follows the messages through what was read.
func (r *answerReader) count(p []byte) error {
	for len(p) > 0 {
		if r.body > 0 {
			skipped := min(r.body, len(p))
			r.body -= skipped
			if err := r.follow(p[:skipped]); err != nil {
				return err
			}
			p = p[skipped:]
			continue
		}
		n := copy(r.header[r.filled:], p)
		r.filled += n
		p = p[n:]
		if r.filled < len(r.header) {
			break
		}
		r.filled = 0
		r.body = max(int(binary.BigEndian.Uint32(r.header[1:]))-4, 0) // the length counts itself
		if r.body > maxMessage {
			return fmt.Errorf("%w (a message of %d bytes)", errOversized, r.body)
		}
		r.isLogin = false
		switch r.header[0] {
		case 'R': // Authentication…
			if r.body > maxAuthentication {
				return fmt.Errorf("%w (a login of %d bytes)", errOversized, r.body)
			}
			r.isLogin = true
		case 'D': // DataRow
			r.rows++
		case 'S', 'N', 'A': // ParameterStatus, NoticeResponse, NotificationResponse
			r.asides++
		}
	}
	if r.bytes > maxAnswer || r.rows > maxRows || r.asides > maxAside {
		return fmt.Errorf("%w (%d bytes, %d rows, %d notices and parameters)", errOversized, r.bytes, r.rows, r.asides)
	}
	return nil
}

// follow collects a part of the body of a message about the login, and checks the whole.
func (r *answerReader) follow(part []byte) error {
	if !r.isLogin {
		return nil
	}
	r.login = append(r.login, part...)
	if r.body > 0 {
		return nil
	}
	login := r.login
	r.login = nil
	const saslContinue = 11
	if len(login) < 4 || binary.BigEndian.Uint32(login) != saslContinue {
		return nil
	}
	for attribute := range strings.SplitSeq(string(login[4:]), ",") {
		text, ok := strings.CutPrefix(attribute, "i=")
		if !ok {
			continue
		}
		if n, err := strconv.Atoi(text); err != nil || n > maxIterations {
			return fmt.Errorf("%w (the limit is %d)", errIterations, maxIterations)
		}
	}
	return nil
}
