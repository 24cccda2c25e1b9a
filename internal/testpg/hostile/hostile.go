// Package hostile plays servers that speak Postgres' protocol and mean harm: they flood, hang,
// lie and break off. Tests show with it that what a tenant's server does stays within bounds.
package hostile

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Server is a listening server.
type Server struct {
	// URL is its address.
	URL string
}

// Behavior is what a server does with a connection. It may return when it likes; the server
// closes the connection then. Writes fail once the client has closed it.
type Behavior func(c *Conn)

// Conn is a connection of a client.
type Conn struct {
	net.Conn
	*pgproto3.Backend
}

// Start starts a server at a loopback address, which ends with the test.
func Start(t testing.TB, behavior Behavior) *Server {
	t.Helper()
	return StartAt(t, "127.0.0.1", behavior)
}

// StartAt is Start at another address of this machine, for clients outside of it.
func StartAt(t testing.TB, address string, behavior Behavior) *Server {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	tasks.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = true
			mu.Unlock()
			tasks.Go(func() {
				behavior(&Conn{conn, pgproto3.NewBackend(conn, conn)})
				_ = conn.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		tasks.Wait()
	})
	return &Server{URL: fmt.Sprintf("postgres://u:p@%s/db?sslmode=disable", listener.Addr())}
}

// Welcome does what a server does until it is ready for the first query.
func (c *Conn) Welcome() error {
	if _, err := c.ReceiveStartupMessage(); err != nil {
		return err
	}
	c.Send(&pgproto3.AuthenticationOk{})
	c.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: "17.0"})
	c.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	c.Send(&pgproto3.ParameterStatus{Name: "client_encoding", Value: "UTF8"})
	c.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}})
	c.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	return c.Flush()
}

// OnQuery welcomes the client and does harm at the first query.
func OnQuery(harm Behavior) Behavior {
	return func(c *Conn) {
		if c.Welcome() != nil {
			return
		}
		if _, err := c.Receive(); err == nil {
			harm(c)
		}
	}
}

// Scram asks for a password that was hashed so many times, and then does nothing.
func Scram(iterations int) Behavior {
	return func(c *Conn) {
		if _, err := c.ReceiveStartupMessage(); err != nil {
			return
		}
		c.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
		if c.Flush() != nil || c.SetAuthType(pgproto3.AuthTypeSASL) != nil {
			return
		}
		message, err := c.Receive()
		first, ok := message.(*pgproto3.SASLInitialResponse)
		if err != nil || !ok {
			return
		}
		_, nonce, _ := strings.Cut(string(first.Data), "r=")
		c.Send(&pgproto3.AuthenticationSASLContinue{Data: fmt.Appendf(nil, "r=%sserver,s=c2FsdA==,i=%d", nonce, iterations)})
		if c.Flush() == nil {
			Hang(c)
		}
	}
}

// Hang does nothing until the client gives up.
func Hang(c *Conn) {
	_, _ = c.Read(make([]byte, 1<<20))
	for {
		if _, err := c.Read(make([]byte, 1<<10)); err != nil {
			return
		}
	}
}

// Repeat sends the messages again and again until the client gives up.
func Repeat(messages ...pgproto3.BackendMessage) Behavior {
	return func(c *Conn) {
		var chunk []byte
		for len(chunk) < 1<<16 {
			for _, m := range messages {
				var err error
				if chunk, err = m.Encode(chunk); err != nil {
					return
				}
			}
		}
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}
}

// Bytes sends these bytes and hangs.
func Bytes(p []byte) Behavior {
	return func(c *Conn) {
		if _, err := c.Write(p); err == nil {
			Hang(c)
		}
	}
}

// Drip sends these bytes one by one, with a pause after each.
func Drip(p []byte, pause time.Duration) Behavior {
	return func(c *Conn) {
		for i := range p {
			if _, err := c.Write(p[i : i+1]); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// Encode returns a message's bytes. It panics if the message has none.
func Encode(m pgproto3.BackendMessage) []byte {
	p, err := m.Encode(nil)
	if err != nil {
		panic(err)
	}
	return p
}

// Answer executes simple statements without a result, and answers prepared ones with this
// description and what execute does.
func Answer(parameters *pgproto3.ParameterDescription, columns *pgproto3.RowDescription, execute Behavior) Behavior {
	return func(c *Conn) {
		if c.Welcome() != nil {
			return
		}
		for {
			message, err := c.Receive()
			if err != nil {
				return
			}
			switch message.(type) {
			case *pgproto3.Query:
				c.Send(&pgproto3.CommandComplete{CommandTag: []byte("SET")})
				c.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			case *pgproto3.Parse:
				c.Send(&pgproto3.ParseComplete{})
			case *pgproto3.Describe:
				if parameters != nil {
					c.Send(parameters)
				}
				c.Send(columns)
			case *pgproto3.Bind:
				c.Send(&pgproto3.BindComplete{})
			case *pgproto3.Execute:
				if c.Flush() == nil {
					execute(c)
				}
			case *pgproto3.Sync:
				c.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			}
			if c.Flush() != nil {
				return
			}
		}
	}
}

// HeapGrowth returns the most by which the heap grew while f ran. No other test should run meanwhile.
func HeapGrowth(f func()) uint64 {
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	runtime.GC()
	before, most := heap(), uint64(0)
	done, sampled := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(sampled)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			most = max(most, heap())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	f()
	close(done)
	<-sampled
	return max(most, before) - before
}
