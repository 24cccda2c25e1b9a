package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/openworkflow-operator/operator/internal/backoff"
)

// listenBackoff spaces out the attempts of Listen to connect.
var listenBackoff = backoff.Policy{First: 100 * time.Millisecond, Max: 5 * time.Second}

// listenIdleTimeout is how long Listen waits on a silent connection before it pings the
// server.
const listenIdleTimeout = 15 * time.Second

// The notification channels of a namespace: what they hint at.
const (
	channelDue  = ""
	channelEnds = "_ends"
)

// channelName derives the name of a channel. The namespace is hashed because a
// channel's name has at most 63 bytes.
func (s *Store) channelName(channel string) string {
	sum := sha256.Sum256([]byte(s.schema + "\x00" + s.namespace))
	return "openworkflow_" + hex.EncodeToString(sum[:16]) + channel
}

// notifySQL is never a part of a transaction that writes data, where it would take a
// lock across the commit.
const notifySQL = `SELECT pg_notify($1, '')`

// Hints say of what to notify, right after a write has been committed and in its round
// trip.
type Hints struct {
	// Due is Notify, Ends is NotifyEnds.
	Due, Ends bool
}

// Notify hints to all listeners of the namespace that a run may be due. Losing it
// loses nothing but time.
func (s *Store) Notify(ctx context.Context) error {
	return s.notify(ctx, Hints{Due: true})
}

// NotifyEnds is Notify for who awaits results: a run may have ended.
func (s *Store) NotifyEnds(ctx context.Context) error {
	return s.notify(ctx, Hints{Ends: true})
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
}

// Listen calls wake for each Notify, and after each connect, because
// notifications sent while nobody listened are lost. It holds a connection of
// its own, reconnects by itself with a growing delay, and returns ctx.Err() when
// ctx ends. Wake is called from Listen's goroutine and must not block.
func (s *Store) Listen(ctx context.Context, wake func()) error {
	return s.listen(ctx, channelDue, wake)
}

// ListenEnds is Listen for NotifyEnds.
func (s *Store) ListenEnds(ctx context.Context, wake func()) error {
	return s.listen(ctx, channelEnds, wake)
}

func (s *Store) listen(ctx context.Context, channel string, wake func()) error {
	for failures := 1; ; failures++ {
		if connected := s.listenOnce(ctx, channel, wake); connected {
			failures = 1
		}
		if err := listenBackoff.Wait(ctx, failures); err != nil {
			return err
		}
	}
}

// listenOnce listens until the connection breaks, and reports whether it stood.
func (s *Store) listenOnce(ctx context.Context, channel string, wake func()) (connected bool) {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig)
	if err != nil {
		return false
	}
	defer closeConn(ctx, conn)
	if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{s.channelName(channel)}.Sanitize()); err != nil {
		return false
	}
	for {
		wake()
		if err := waitForNotification(ctx, conn); err != nil {
			return true
		}
	}
}

// waitForNotification returns nil on a notification, and an error once the
// connection is broken.
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

// closeConn says goodbye to the server even when ctx has ended, within a second.
func closeConn(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}
