package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg/hostile"
)

var heapGrowth = hostile.HeapGrowth

// Whatever a server sends, a Store keeps a bounded amount of it for a bounded time, and says
// what was wrong.
func TestOpen_P9_AHostileServerIsBounded(t *testing.T) {
	const limit, patience = 64 << 20, 2 * time.Second
	text := func(n int) string { return strings.Repeat("x", n) }
	big := &pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX000", Message: text(3 << 20), Detail: text(512 << 10)}
	workers := &pgproto3.RowDescription{}
	for _, oid := range []uint32{25, 25, 25, 25, 3802, 1184} {
		workers.Fields = append(workers.Fields, pgproto3.FieldDescription{Name: []byte("c"), DataTypeOID: oid, DataTypeSize: -1, TypeModifier: -1})
	}
	arguments := &pgproto3.ParameterDescription{ParameterOIDs: []uint32{25, 1186}}
	row := &pgproto3.DataRow{Values: [][]byte{[]byte(""), []byte(""), []byte(""), []byte(""), []byte("\x01[]"), make([]byte, 8)}}
	for name, test := range map[string]struct {
		behavior hostile.Behavior
		want     error // nil: any
	}{
		"hangs at once":            {hostile.Hang, store.ErrUnreachable},
		"hangs in a query":         {hostile.OnQuery(hostile.Hang), store.ErrUnreachable},
		"a gigabyte":               {hostile.OnQuery(hostile.Bytes([]byte{'D', 0x40, 0, 0, 0})), store.ErrUnexpectedAnswer},
		"a gigabyte at once":       {hostile.Bytes([]byte{'R', 0x40, 0, 0, 0}), store.ErrUnexpectedAnswer},
		"a negative length":        {hostile.OnQuery(hostile.Bytes([]byte{'D', 0xff, 0xff, 0xff, 0xff})), nil},
		"endless parameters":       {hostile.Repeat(&pgproto3.AuthenticationOk{}, &pgproto3.ParameterStatus{Name: "a", Value: "b"}), store.ErrUnexpectedAnswer},
		"endless notices":          {hostile.OnQuery(hostile.Repeat(&pgproto3.NoticeResponse{Message: "x"})), store.ErrUnexpectedAnswer},
		"endless notifications":    {hostile.OnQuery(hostile.Repeat(&pgproto3.NotificationResponse{Channel: "x"})), store.ErrUnexpectedAnswer},
		"endless rows":             {hostile.OnQuery(hostile.Repeat(&pgproto3.DataRow{})), store.ErrUnexpectedAnswer},
		"endless large rows":       {hostile.OnQuery(hostile.Repeat(&pgproto3.DataRow{Values: [][]byte{[]byte(text(1 << 20))}})), store.ErrUnexpectedAnswer},
		"endless results":          {hostile.OnQuery(hostile.Repeat(&pgproto3.CommandComplete{CommandTag: []byte("SET")})), store.ErrUnexpectedAnswer},
		"drips":                    {hostile.OnQuery(hostile.Drip(hostile.Encode(big), 5*time.Millisecond)), store.ErrUnreachable},
		"a long error":             {hostile.OnQuery(hostile.Bytes(append(hostile.Encode(big), 'Z', 0, 0, 0, 5, 'I'))), nil},
		"an error of 10 MB":        {hostile.OnQuery(hostile.Bytes(hostile.Encode(&pgproto3.ErrorResponse{Message: text(10 << 20)}))), store.ErrUnexpectedAnswer},
		"breaks off":               {hostile.OnQuery(func(c *hostile.Conn) { _, _ = c.Write([]byte{'D', 0, 0}) }), store.ErrUnreachable},
		"endless rows of workers":  {hostile.Answer(arguments, workers, hostile.Repeat(row)), nil},
		"rows of another shape":    {hostile.Answer(arguments, workers, hostile.Repeat(&pgproto3.DataRow{Values: [][]byte{[]byte("x")}})), nil},
		"columns of another shape": {hostile.Answer(arguments, &pgproto3.RowDescription{}, hostile.Repeat(row)), nil},
		"not what was asked":       {hostile.OnQuery(hostile.Repeat(&pgproto3.CopyInResponse{}, &pgproto3.AuthenticationMD5Password{})), nil},
	} {
		t.Run(name, func(t *testing.T) { // one at a time: they share the heap
			server := hostile.Start(t, test.behavior)
			var err error
			began := time.Now()
			growth := heapGrowth(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				var s *store.Store
				if s, err = store.Open(ctx, store.Options{URL: server.URL, Untrusted: true, MaxConns: 10}); err == nil {
					_, err = s.Workers(ctx, time.Minute)
					s.Close()
				}
			})
			if err == nil {
				t.Fatal("no error")
			}
			deadline := errors.Is(err, context.DeadlineExceeded) // on a busy machine it may come first
			if test.want != nil && !errors.Is(err, test.want) && !deadline {
				t.Errorf("error is %.300v, want %v", err, test.want)
			}
			if len(err.Error()) > 64<<10 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
			if took := time.Since(began); took > patience+30*time.Second { // a server that hangs would do so for ever
				t.Errorf("it took %v", took)
			}
			if growth > limit {
				t.Errorf("the heap grew by %d MiB", growth>>20)
			}
		})
	}
}

// No server makes the manager hash a password for seconds, which nothing could interrupt.
func TestOpen_P9_AServerAsksForABoundedHash(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		iterations int
		refused    bool
	}{{4096, false}, {100_000, false}, {100_001, true}, {9_999_999, true}} {
		server := hostile.Start(t, hostile.Scram(test.iterations))
		patience := 2 * time.Second // the server does not go on after the hash
		if test.refused {
			patience = time.Minute
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		s, err := store.Open(ctx, store.Options{URL: server.URL, Untrusted: true, MaxConns: 1})
		cancel()
		if err == nil {
			s.Close()
			t.Fatal("no error")
		}
		if errors.Is(err, store.ErrUnexpectedAnswer) != test.refused || strings.Contains(err.Error(), "iterations") != test.refused {
			t.Errorf("%d iterations: %v", test.iterations, err)
		}
	}
}
