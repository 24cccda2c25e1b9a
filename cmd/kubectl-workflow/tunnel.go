package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// endpoint is a port of a pod.
type endpoint struct {
	namespace, pod string
	port           int32
}

// tunnel opens connections to pods through the API server, as kubectl port-forward does. It
// listens at no port of this machine, so no other user of it can use the tunnel.
type tunnel struct {
	user *rest.Config
	core rest.Interface
	pods []endpoint
}

// dialTimeout bounds the wait for one pod, whose node may be gone.
const dialTimeout = 15 * time.Second

// dial connects to the first pod that answers. The address is that of the Service.
func (t *tunnel) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var failed []error
	for _, pod := range t.pods {
		conn, err := t.openWithin(ctx, pod)
		if err == nil {
			return conn, nil
		}
		failed = append(failed, connectError("forward a port of pod "+pod.pod, pod.namespace, err))
		if apierrors.IsForbidden(err) {
			break
		}
	}
	return nil, errors.Join(failed...)
}

// openWithin is open for at most dialTimeout. Upgrades of connections know no context.
func (t *tunnel) openWithin(ctx context.Context, pod endpoint) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %v", dialTimeout))
	defer cancel()
	type opened struct {
		conn net.Conn
		err  error
	}
	result := make(chan opened)
	go func() {
		conn, err := t.open(pod)
		select {
		case result <- opened{conn, err}:
		case <-ctx.Done():
			if err == nil {
				_ = conn.Close()
			}
		}
	}()
	select {
	case r := <-result:
		return r.conn, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// open asks the API server for a stream to the port, by websocket and, where a proxy or an old
// API server does not let that through, by SPDY.
func (t *tunnel) open(pod endpoint) (net.Conn, error) {
	to := t.core.Post().Resource("pods").Namespace(pod.namespace).Name(pod.pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(t.user)
	if err != nil {
		return nil, err
	}
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(to, t.user)
	if err != nil {
		return nil, err
	}
	dialer := portforward.NewFallbackDialerForStreaming(websocket,
		spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, to),
		func(err error) bool { return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err) })
	connection, protocol, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	if protocol != portforward.PortForwardProtocolV1Name {
		_ = connection.Close()
		return nil, fmt.Errorf("the API server forwards ports by %q, not by %s", protocol, portforward.PortForwardProtocolV1Name)
	}
	conn, err := newStreamConn(connection, pod)
	if err != nil {
		_ = connection.Close()
		return nil, err
	}
	return conn, nil
}

// streamConn is a connection to a port of a pod.
type streamConn struct {
	httpstream.Stream
	connection httpstream.Connection
	pod        endpoint

	// refused is what the other side has said about the port. It is written before failed is
	// closed.
	refused string
	failed  chan struct{}
}

// newStreamConn opens the two streams of a forwarded port: one for data, one for errors.
func newStreamConn(connection httpstream.Connection, pod endpoint) (*streamConn, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(int(pod.port)))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	failures, err := connection.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open the stream of errors: %w", err)
	}
	_ = failures.Close() // this side writes nothing to it
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := connection.CreateStream(headers)
	if err != nil {
		return nil, fmt.Errorf("open the stream of data: %w", err)
	}
	c := &streamConn{Stream: data, connection: connection, pod: pod, failed: make(chan struct{})}
	go func() { // ends with the connection
		message, _ := io.ReadAll(io.LimitReader(failures, 4096))
		c.refused = string(message)
		close(c.failed)
		if len(message) > 0 {
			_ = c.Close()
		}
	}()
	return c, nil
}

// Read reads from the port. Its error says why the port cannot be reached.
func (c *streamConn) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	if err == nil || n > 0 {
		return n, err
	}
	select {
	case <-c.failed:
		if c.refused != "" {
			return 0, fmt.Errorf("port %d of pod %s/%s: %s", c.pod.port, c.pod.namespace, c.pod.pod, c.refused)
		}
	default:
	}
	return 0, err
}

// Close ends the connection to the API server too, which serves this port only.
func (c *streamConn) Close() error {
	_ = c.Reset()
	return c.connection.Close()
}

func (c *streamConn) LocalAddr() net.Addr  { return podAddress(endpoint{pod: "local"}) }
func (c *streamConn) RemoteAddr() net.Addr { return podAddress(c.pod) }

// A stream has no deadlines. Requests end by their contexts, which close the connection.

func (*streamConn) SetDeadline(time.Time) error      { return nil }
func (*streamConn) SetReadDeadline(time.Time) error  { return nil }
func (*streamConn) SetWriteDeadline(time.Time) error { return nil }

// podAddress is an endpoint as the address of a connection.
type podAddress endpoint

func (podAddress) Network() string  { return "portforward" }
func (a podAddress) String() string { return fmt.Sprintf("%s:%d", a.pod, a.port) }
