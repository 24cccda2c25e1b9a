package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
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
	// sockets, and the metadata services of clouds.
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

// metadataServices are the addresses of clouds' metadata services that are not link-local.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // Amazon
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("168.63.129.16"),   // Microsoft
	netip.MustParseAddr("100.100.100.200"), // Alibaba
}

// nat64 is the well-known prefix of addresses that end with one of IPv4 (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// Check returns ErrAddressDenied for an address that the rule does not allow.
func (r DialRule) Check(ip netip.Addr) error {
	ip = ip.Unmap().WithZone("")
	if bytes := ip.As16(); nat64.Contains(ip) {
		ip = netip.AddrFrom4([4]byte(bytes[12:]))
	}
	isLocal := ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() || slices.Contains(metadataServices, ip)
	if isLocal && !r.AllowLocal {
		return ErrAddressDenied
	}
	for _, network := range r.Denied {
		if network.Contains(ip) {
			return ErrAddressDenied
		}
	}
	return nil
}
