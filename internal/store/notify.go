package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openworkflow-operator/operator/internal/backoff"
)

// listenBackoff spaces out the attempts of Listen to connect.
var listenBackoff = backoff.Policy{First: 100 * time.Millisecond, Max: 5 * time.Second}

// listenIdleTimeout is how long Listen waits on a silent connection before it pings the
// server.
const listenIdleTimeout = 15 * time.Second

// The notification channels of a namespace: of due runs, of ended runs, and of new waits for
// signals.
const (
	channelDue   = ""
	channelEnds  = "_ends"
	channelWaits = "_waits"
)

// channelName returns the name of a channel. Schema and namespace are hashed because a name
// has at most 63 bytes.
func (s *Store) channelName(channel string) string {
	sum := sha256.Sum256([]byte(s.schema + "\x00" + s.namespace))
	return "openworkflow_" + hex.EncodeToString(sum[:16]) + channel
}

// notifySQL is never part of a transaction that writes data: there it would hold a lock across
// the commit, for which all other notifying commits wait.
const notifySQL = `SELECT pg_notify($1, '')`

// Hints name the notifications to send right after a commit, in the round trip of the write.
type Hints struct {
	// Due sends what Notify sends, Ends what NotifyEnds sends, and Waits what NotifyWaits sends.
	Due, Ends, Waits bool
}

// Notify hints to all listeners of the namespace that a run may be due. A lost hint costs only
// time: listeners also poll.
func (s *Store) Notify(ctx context.Context) error {
	return s.notify(ctx, Hints{Due: true})
}

// NotifyEnds hints to those that await results that a run may have ended.
func (s *Store) NotifyEnds(ctx context.Context) error {
	return s.notify(ctx, Hints{Ends: true})
}

// NotifyWaits hints to those that keep signals that a run may have begun to wait for one.
func (s *Store) NotifyWaits(ctx context.Context) error {
	return s.notify(ctx, Hints{Waits: true})
}

func (s *Store) notify(ctx context.Context, hints Hints) error {
	var b sqlBatch
	s.queueHints(&b, hints)
	return Classify(s.send(ctx, &b))
}

func (s *Store) queueHints(b *sqlBatch, hints Hints) {
	if hints.Due {
		b.Queue(notifySQL, s.channelName(channelDue))
	}
	if hints.Ends {
		b.Queue(notifySQL, s.channelName(channelEnds))
	}
	if hints.Waits {
		b.Queue(notifySQL, s.channelName(channelWaits))
	}
}

// Listen calls wake for each Notify, and after each connect, because notifications are lost
// while no connection listens. It holds a connection of its own, which it re-establishes with
// backoff. It returns ctx.Err() when ctx ends. Wake is called from Listen's goroutine and must
// not block. Behind a transaction pooler it calls wake once and hears nothing: LISTEN would make a
// session listen that other clients use.
func (s *Store) Listen(ctx context.Context, wake func()) error {
	return s.listen(ctx, channelDue, wake)
}

// ListenEnds is Listen for NotifyEnds.
func (s *Store) ListenEnds(ctx context.Context, wake func()) error {
	return s.listen(ctx, channelEnds, wake)
}

// ListenWaits is Listen for NotifyWaits.
func (s *Store) ListenWaits(ctx context.Context, wake func()) error {
	return s.listen(ctx, channelWaits, wake)
}

func (s *Store) listen(ctx context.Context, channel string, wake func()) error {
	if s.pooled {
		wake()
		<-ctx.Done()
		return ctx.Err()
	}
	for failures := 1; ; failures++ {
		if connected := s.listenOnce(ctx, channel, wake); connected {
			failures = 1
		}
		if err := listenBackoff.Wait(ctx, failures); err != nil {
			return err
		}
	}
}

// listenOnce listens until the connection breaks, and reports whether it was established.
func (s *Store) listenOnce(ctx context.Context, channel string, wake func()) (connected bool) {
	config := s.pool.Config().ConnConfig
	config.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) { wake() } // also those beside a ping
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return false
	}
	defer closeConn(ctx, conn)
	if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{s.channelName(channel)}.Sanitize()); err != nil {
		return false
	}
	wake()
	for {
		if err := waitForNotification(ctx, conn); err != nil {
			return true
		}
	}
}

// waitForNotification returns nil on a notification, and an error once the connection is
// broken. It pings the server each time the connection has been silent for listenIdleTimeout.
func waitForNotification(ctx context.Context, conn *pgx.Conn) error {
	for {
		quiet, cancel := context.WithTimeout(ctx, listenIdleTimeout)
		_, err := conn.WaitForNotification(quiet)
		expired := quiet.Err() != nil
		cancel()
		if err == nil || !expired || ctx.Err() != nil {
			return err
		}
		ping, cancel := context.WithTimeout(ctx, listenIdleTimeout)
		err = conn.Ping(ping)
		cancel()
		if err != nil {
			return err
		}
	}
}

// closeConn closes the connection gracefully, for up to a second, even if ctx has ended.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
