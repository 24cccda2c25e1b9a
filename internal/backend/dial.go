package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/openworkflow-operator/operator/internal/store"
)

// ErrAddressDenied means that a DialRule does not allow the address of a database.
var ErrAddressDenied = errors.New("address not allowed")

// DialRule says where databases may be. A tenant chooses the address and the manager connects
// to it, so without a rule a tenant would reach what only the manager reaches.
type DialRule struct {
	// AllowLocal allows loopback, link-local, multicast and unspecified addresses, and Unix
	// sockets: the manager's own host, and the metadata service of a cloud.
	AllowLocal bool
	// Denied are networks without databases, such as that of the cluster's services.
	Denied []netip.Prefix
}

// Open is OpenStore for addresses that the rule allows.
func (r DialRule) Open(ctx context.Context, o store.Options) (Store, error) {
	o.Dial = r.Dial
	return OpenStore(ctx, o)
}

// Dial connects to an address that the rule allows. The rule is applied to the address that the
// connection is made to, after names were resolved.
func (r DialRule) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: 5 * time.Minute, Control: r.control}
	return dialer.DialContext(ctx, network, address)
}

func (r DialRule) control(network, address string, _ syscall.RawConn) error {
	if network == "unix" {
		if r.AllowLocal {
			return nil
		}
		return fmt.Errorf("%w: a Unix socket", ErrAddressDenied)
	}
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAddressDenied, err)
	}
	return r.Check(parsed.Addr())
}

// Check returns ErrAddressDenied for an address that the rule does not allow.
func (r DialRule) Check(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	if !r.AllowLocal && (ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified()) {
		return ErrAddressDenied
	}
	for _, network := range r.Denied {
		if network.Contains(ip) {
			return ErrAddressDenied
		}
	}
	return nil
}
