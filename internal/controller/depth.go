package controller

import (
	"bufio"
	"io"
	"net/http"
	"strings"

	"k8s.io/client-go/rest"
)

// maxAnswerDepth is the deepest nesting that is read of the API server's answers. An object of ours
// that reaches it is unreadable (api/v1alpha1). The API server stores objects of 10,000 levels, and
// no decoder of JSON reads the list that has one, as the list adds two.
const maxAnswerDepth = 2000

// LimitDepth makes clients with this configuration read answers with a nesting of at most
// maxAnswerDepth levels. Values below that are read as null.
func LimitDepth(config *rest.Config) {
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper { return depthLimiter{inner} })
}

type depthLimiter struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (d depthLimiter) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := d.RoundTripper.RoundTrip(request)
	if err != nil || !strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") || response.Header.Get("Content-Encoding") != "" {
		return response, err
	}
	response.Body = &shallowBody{closer: response.Body, from: bufio.NewReader(response.Body)}
	response.ContentLength = -1
	response.Header.Del("Content-Length")
	return response, nil
}

// shallowBody is a stream of JSON values, with null in place of values that are nested too deep.
type shallowBody struct {
	closer  io.Closer
	from    *bufio.Reader
	depth   int
	inText  bool
	escaped bool
	pending string // what a reader had no room for
}

// Read implements io.Reader. It returns what has arrived, as a watch must not wait.
func (b *shallowBody) Read(into []byte) (int, error) {
	n := copy(into, b.pending)
	b.pending = b.pending[n:]
	for n < len(into) {
		if n > 0 && b.from.Buffered() == 0 {
			break
		}
		c, err := b.from.ReadByte()
		if err != nil {
			return n, err
		}
		switch shown, cut := b.next(c); {
		case cut:
			const null = "null"
			written := copy(into[n:], null)
			b.pending = null[written:]
			n += written
		case shown:
			into[n] = c
			n++
		}
	}
	return n, nil
}

// next follows the nesting. It returns whether the byte is shown, or a value that is cut begins
// with it.
func (b *shallowBody) next(c byte) (shown, cut bool) {
	within := b.depth <= maxAnswerDepth
	switch {
	case b.escaped:
		b.escaped = false
	case b.inText:
		b.escaped, b.inText = c == '\\', c != '"'
	case c == '"':
		b.inText = true
	case c == '{' || c == '[':
		b.depth++
		return b.depth <= maxAnswerDepth, b.depth == maxAnswerDepth+1
	case c == '}' || c == ']':
		b.depth--
	}
	return within, false
}

// Close implements io.Closer.
func (b *shallowBody) Close() error { return b.closer.Close() }
