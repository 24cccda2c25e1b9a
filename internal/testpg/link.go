package testpg

import (
	"context"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Link is a way to a server that can lose its connections without closing them, as a network
// does when a node or a firewall between the ends has gone. Its methods may be called
// concurrently.
type Link struct {
	// URL is the address of the database through the link.
	URL string

	server string
	mu     sync.Mutex
	// open are the connections that do not hang.
	open []*linked
	// ends are those of all connections.
	ends []net.Conn
	// closed is whether the test has ended, and blackholed whether new connections hang.
	closed, blackholed bool
}

// linked is a connection through a link.
type linked struct {
	client, server net.Conn
	hung           atomic.Bool
}

// NewLink returns a link to the database of a URL, which ends with the test.
func NewLink(t testing.TB, database string) *Link {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Link{server: u.Host}
	u.Host = listener.Addr().String()
	l.URL = u.String()
	var tasks sync.WaitGroup
	tasks.Go(func() { l.accept(t.Context(), listener, &tasks) })
	t.Cleanup(func() {
		_ = listener.Close()
		l.close()
		tasks.Wait()
	})
	return l
}

// accept connects each client with the server until the listener is closed.
func (l *Link) accept(ctx context.Context, listener net.Listener, tasks *sync.WaitGroup) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		c := &linked{client: client, server: server}
		if !l.add(c) {
			continue
		}
		tasks.Go(func() { l.pass(c, server, client) })
		tasks.Go(func() { l.pass(c, client, server) })
	}
}

// add keeps a connection, unless the link is closed: then it closes it.
func (l *Link) add(c *linked) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		_, _ = c.client.Close(), c.server.Close()
		return false
	}
	c.hung.Store(l.blackholed)
	l.open = append(l.open, c)
	l.ends = append(l.ends, c.client, c.server)
	return true
}

// pass passes data on until an end is closed. Nothing passes a connection that hangs, not even
// that the other end was closed.
func (l *Link) pass(c *linked, to, from net.Conn) {
	data := make([]byte, 1<<16)
	for {
		n, err := from.Read(data)
		if c.hung.Load() {
			if err != nil {
				return
			}
			continue
		}
		if _, failed := to.Write(data[:n]); err != nil || failed != nil {
			_, _ = c.client.Close(), c.server.Close()
			return
		}
	}
}

// Hang makes all connections of now hang: they stay open, and nothing that is sent arrives. New
// connections are not concerned.
func (l *Link) Hang() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.hung.Store(true)
	}
	l.open = nil
}

// Blackhole is Hang, also for the connections to come.
func (l *Link) Blackhole() {
	l.mu.Lock()
	l.blackholed = true
	l.mu.Unlock()
	l.Hang()
}

// close closes all connections.
func (l *Link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, end := range l.ends {
		_ = end.Close()
	}
}
