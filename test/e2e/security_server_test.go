//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/testpg/hostile"
)

// serverAttacks are Backends whose server is the tenant's own program.
var serverAttacks = []attack{
	{"server/that-hang", tryServersThatHang},
	{"server/that-flood", tryServersThatFlood},
	{"server/that-lie", tryServersThatLie},
	{"server/that-hang-later", tryServerThatHangsLater},
	{"server/that-flood-later", tryServerThatFloodsLater},
}

// serve makes a Backend for each behavior, whose server runs until the time for attacks is over.
// Each Backend must say one of the reasons, and nothing of what its server says.
func (a *attacker) serve(reasons []string, behaviors map[string]hostile.Behavior) {
	a.Helper()
	backends := map[string]*unstructured.Unstructured{}
	for name, behavior := range behaviors {
		server := hostile.StartAt(a.T, a.scene.host, behavior)
		name = "server-" + strings.ReplaceAll(name, " ", "-")
		a.must(a.createSecret(name, server.URL))
		backends[name] = a.newBackend(name, name, a.login)
		a.must(a.create(backends[name]))
	}
	for name, b := range backends {
		if message := a.awaitReason(time.Minute, b, reasons...); strings.Contains(message, "xxxx") {
			a.Errorf("Backend %s repeats what its server says: %.500s", name, message)
		}
	}
	<-a.over.Done()
	for name, b := range backends {
		if reason, message := a.ready(b); !slices.Contains(reasons, reason) {
			a.Errorf("Backend %s says at the end %s: %.500s; want one of %v", name, reason, message, reasons)
		}
	}
}

// Servers that do not answer, or slowly, hold up nobody else.
func tryServersThatHang(a *attacker) {
	text := strings.Repeat("x", 3<<20)
	a.serve([]string{v1alpha1.ReasonUnreachable}, map[string]hostile.Behavior{
		"hangs at once":    hostile.Hang,
		"hangs in a query": hostile.OnQuery(hostile.Hang),
		"drips":            hostile.OnQuery(hostile.Drip(hostile.Encode(&pgproto3.ErrorResponse{Message: text}), 5*time.Millisecond)),
		"breaks off":       hostile.OnQuery(func(c *hostile.Conn) { _, _ = c.Write([]byte{'D', 0, 0}) }),
	})
}

// Servers that send without end fill neither the manager's memory nor its time.
func tryServersThatFlood(a *attacker) {
	large := []byte(strings.Repeat("x", 1<<20))
	a.serve([]string{v1alpha1.ReasonUnexpectedAnswer, v1alpha1.ReasonUnreachable}, map[string]hostile.Behavior{
		"a gigabyte":            hostile.OnQuery(hostile.Bytes([]byte{'D', 0x40, 0, 0, 0})),
		"a gigabyte at once":    hostile.Bytes([]byte{'R', 0x40, 0, 0, 0}),
		"endless parameters":    hostile.Repeat(&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "a", Value: "b"}),
		"endless notices":       hostile.OnQuery(hostile.Repeat(&pgproto3.NoticeResponse{Message: "x"})),
		"endless notifications": hostile.OnQuery(hostile.Repeat(&pgproto3.NotificationResponse{Channel: "x"})),
		"endless rows":          hostile.OnQuery(hostile.Repeat(&pgproto3.DataRow{})),
		"endless large rows":    hostile.OnQuery(hostile.Repeat(&pgproto3.DataRow{Values: [][]byte{large}})),
		"an error of 10 mb":     hostile.OnQuery(hostile.Bytes(hostile.Encode(&pgproto3.ErrorResponse{Message: strings.Repeat("x", 10<<20)}))),
	})
}

// Servers whose answers make no sense are found out.
func tryServersThatLie(a *attacker) {
	arguments := &pgproto3.ParameterDescription{ParameterOIDs: []uint32{25, 1186}}
	row := &pgproto3.DataRow{Values: [][]byte{[]byte("x")}}
	refusal := &pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "xxxx"}
	a.serve([]string{
		v1alpha1.ReasonUnexpectedAnswer, v1alpha1.ReasonUnreachable, v1alpha1.ReasonMigrationFailed, v1alpha1.ReasonAuthenticationFailed,
		v1alpha1.ReasonReadOnly, v1alpha1.ReasonSchemaTooNew, v1alpha1.ReasonInternalError,
	}, map[string]hostile.Behavior{
		"a negative length":        hostile.OnQuery(hostile.Bytes([]byte{'D', 0xff, 0xff, 0xff, 0xff})),
		"columns of another shape": hostile.Answer(arguments, &pgproto3.RowDescription{}, hostile.Repeat(row)),
		"not what was asked":       hostile.OnQuery(hostile.Repeat(&pgproto3.CopyInResponse{}, &pgproto3.AuthenticationMD5Password{})),
		"refuses with a text":      hostile.Bytes(hostile.Encode(refusal)),
		"yes to everything":        hostile.Answer(nil, &pgproto3.RowDescription{}, func(c *hostile.Conn) { c.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT 0")}) }),
	})
}

// turncoat stands before the real database. Once it has turned, it does harm with what the server
// answers.
type turncoat struct {
	url    string
	turned atomic.Bool
}

// newTurncoat starts a turncoat before the tenant's own database.
func (a *attacker) newTurncoat(harm func(c net.Conn)) *turncoat {
	a.Helper()
	listener, err := (&net.ListenConfig{}).Listen(a.Context(), "tcp", a.scene.host+":0")
	a.must(err)
	address, err := url.Parse(a.url)
	a.must(err)
	upstream := net.JoinHostPort("127.0.0.1", address.Port())
	address.Host = listener.Addr().String()
	t := &turncoat{url: address.String()}
	var conns sync.WaitGroup
	a.Cleanup(func() { _ = listener.Close(); conns.Wait() })
	conns.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { t.relay(a, c, upstream, harm) })
		}
	})
	return t
}

// relay passes on what client and server send, until the turn.
func (t *turncoat) relay(a *attacker, c net.Conn, upstream string, harm func(c net.Conn)) {
	defer func() { _ = c.Close() }()
	server, err := (&net.Dialer{}).DialContext(a.Context(), "tcp", upstream)
	if err != nil {
		return
	}
	stop := func() { _, _ = c.Close(), server.Close() }
	defer stop()
	defer context.AfterFunc(a.over, stop)()
	go func() { _, _ = io.Copy(server, c); stop() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		if t.turned.Load() {
			harm(c)
			return
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// later makes a Backend behind a turncoat with runs in it, turns, and returns the Backend.
func (a *attacker) later(name string, harm func(c net.Conn)) *unstructured.Unstructured {
	a.Helper()
	t := a.newTurncoat(harm)
	a.must(a.createSecret(name, t.url))
	b := a.newBackend(name, name, a.login+"_lying")
	a.must(a.create(b))
	a.awaitReason(time.Minute, b, v1alpha1.ReasonConnected)
	for i := range 100 {
		if i == 50 {
			t.turned.Store(true)
		}
		a.must(a.create(a.newRun(fmt.Sprintf("%s-%d", name, i), fields{"workflowName": "nobody-serves", "backendRef": fields{"name": name}})))
	}
	return b
}

// A server that hangs once its Backend is ready, with runs in it.
func tryServerThatHangsLater(a *attacker) {
	b := a.later("hangs-later", func(net.Conn) { <-a.over.Done() })
	a.awaitNotReady(2*time.Minute, b)
	<-a.over.Done()
}

// A server that floods once its Backend is ready, with runs in it.
func tryServerThatFloodsLater(a *attacker) {
	flood := hostile.Repeat(&pgproto3.NotificationResponse{Channel: "x"}, &pgproto3.DataRow{Values: [][]byte{[]byte(strings.Repeat("x", 1000))}})
	b := a.later("floods-later", func(c net.Conn) { flood(&hostile.Conn{Conn: c}) })
	a.awaitNotReady(2*time.Minute, b)
	<-a.over.Done()
}
