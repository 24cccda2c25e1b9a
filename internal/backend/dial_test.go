package backend

import (
	"errors"
	"net"
	"net/netip"
	"testing"
)

func TestDialRule_P9_KeepsTenantsFromTheManagersHost(t *testing.T) {
	t.Parallel()
	rule := DialRule{Denied: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}}
	for address, allowed := range map[string]bool{
		"127.0.0.1": false, "127.8.8.8": false, "::1": false, "::ffff:127.0.0.1": false, "0.0.0.0": false, "::": false,
		"169.254.169.254": false, "fe80::1": false, "224.0.0.1": false, "10.96.0.1": false, "::ffff:10.96.0.1": false,
		"fd00:ec2::254": false, "fd20:ce::254": false, "168.63.129.16": false, "100.100.100.200": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b::a60:1": false, "64:ff9b::a01:203": true,
		"10.1.2.3": true, "192.0.2.7": true, "2001:db8::1": true, "fd00::5": true,
	} {
		if err := rule.Check(netip.MustParseAddr(address)); (err == nil) != allowed {
			t.Errorf("%s: %v, want allowed %v", address, err, allowed)
		}
	}
	if err := (DialRule{AllowLocal: true}).Check(netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Errorf("with AllowLocal: %v", err)
	}
}

// TestDialRule_P9_AppliesAfterNamesAreResolved: a name that leads to the own host is refused too.
func TestDialRule_P9_AppliesAfterNamesAreResolved(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	dial := func(rule DialRule, network, address string) error {
		conn, err := rule.Dial(t.Context(), network, address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	for _, host := range []string{"127.0.0.1", "localhost"} {
		if err := dial(DialRule{}, "tcp", net.JoinHostPort(host, port)); !errors.Is(err, ErrAddressDenied) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := dial(DialRule{}, "unix", "/nowhere"); !errors.Is(err, ErrAddressDenied) {
		t.Errorf("a socket: %v", err)
	}
	if err := dial(DialRule{AllowLocal: true}, "tcp", net.JoinHostPort("127.0.0.1", port)); err != nil {
		t.Errorf("with AllowLocal: %v", err)
	}
}
