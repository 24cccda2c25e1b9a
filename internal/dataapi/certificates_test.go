package dataapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
)

var serviceNames = []string{"openworkflow-data-api.system.svc"}

// certificatesOf counts the certificates of a bundle.
func certificatesOf(t *testing.T, bundle []byte) (all []*x509.Certificate) {
	t.Helper()
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, cert)
	}
	return all
}

func TestCertificates_RenewWhatIsOld(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var fresh issued
	if _, err := fresh.renew(serviceNames, now); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change                func(*issued)
		names                 []string
		after                 time.Duration
		newAuthority, newCert bool
		authorities           int
	}{
		"fresh":                 {after: 0, authorities: 1},
		"two thirds are over":   {after: certificateLifetime*2/3 + time.Minute, newCert: true, authorities: 1},
		"just before":           {after: certificateLifetime*2/3 - time.Minute, authorities: 1},
		"other names":           {names: []string{"other.system.svc"}, newCert: true, authorities: 1},
		"authority is old":      {after: authorityLifetime * 5 / 6, newAuthority: true, newCert: true, authorities: 2},
		"no certificate":        {change: func(i *issued) { i.cert = nil }, newCert: true, authorities: 1},
		"malformed certificate": {change: func(i *issued) { i.cert = []byte("x") }, newCert: true, authorities: 1},
		"no authority":          {change: func(i *issued) { i.authority = nil }, newAuthority: true, newCert: true, authorities: 1},
		"no authority's key":    {change: func(i *issued) { i.authorityKey = nil }, newAuthority: true, newCert: true, authorities: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, names := fresh, test.names
			if test.change != nil {
				test.change(&got)
			}
			if names == nil {
				names = serviceNames
			}
			at := now.Add(test.after)
			changed, err := got.renew(names, at)
			if err != nil {
				t.Fatal(err)
			}
			if changed != (test.newAuthority || test.newCert) {
				t.Errorf("changed is %v", changed)
			}
			if bytes.Equal(got.cert, fresh.cert) == test.newCert {
				t.Errorf("a new certificate: %v, want %v", !test.newCert, test.newCert)
			}
			authorities := certificatesOf(t, got.authority)
			if len(authorities) != test.authorities {
				t.Errorf("%d authorities, want %d", len(authorities), test.authorities)
			}
			pool := x509.NewCertPool()
			pool.AddCert(authorities[0])
			cert := certificatesOf(t, got.cert)[0]
			if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: names[0], CurrentTime: at}); err != nil {
				t.Errorf("the certificate: %v", err)
			}
			if _, err := tls.X509KeyPair(got.cert, got.key); err != nil {
				t.Errorf("the key: %v", err)
			}
		})
	}
}

// Replicas share one certificate, also when they find none at the same time, and a new one is
// served without a restart.
func TestCertificates_ReplicasShareOne(t *testing.T) {
	w := setup(t)
	clock := clocktesting.NewFakeClock(time.Now())
	replicas := make([]*Certificates, 3)
	refresh := func() {
		t.Helper()
		var together sync.WaitGroup
		for _, r := range replicas {
			together.Go(func() {
				if err := r.Refresh(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		together.Wait()
	}
	for i := range replicas {
		replicas[i] = &Certificates{Client: cluster.admin, Namespace: w.namespace, Names: serviceNames, Clock: clock, Log: logr.Discard()}
	}
	refresh()
	first, _ := replicas[0].CurrentCertKeyContent()
	clock.Step(certificateLifetime * 3 / 4)
	refresh()
	second, _ := replicas[0].CurrentCertKeyContent()
	if bytes.Equal(first, second) {
		t.Error("the certificate was not renewed")
	}
	for _, r := range replicas {
		refreshed := r.Refresh(t.Context())
		if got, _ := r.CurrentCertKeyContent(); refreshed != nil || !bytes.Equal(got, second) {
			t.Errorf("a replica has another certificate: %v", refreshed)
		}
	}
	var shown corev1.ConfigMap
	if err := cluster.admin.Get(t.Context(), types.NamespacedName{Namespace: w.namespace, Name: AuthorityName}, &shown); err != nil {
		t.Fatal(err)
	}
	if n := len(certificatesOf(t, []byte(shown.Data[keyAuthority]))); n != 1 {
		t.Errorf("%d authorities are published, want 1", n)
	}
}

// The server shows a renewed certificate to the next connection.
func TestCertificates_AreServedOnceRenewed(t *testing.T) {
	w := setup(t)
	clock := clocktesting.NewFakeClock(time.Now())
	own := &Certificates{Client: cluster.admin, Namespace: w.namespace, Names: serviceNames, Clock: clock, Log: logr.Discard()}
	if err := own.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := New(&Databases{}, Options{Listener: listener, Certificate: own, Config: cluster.env.Config, Cluster: clusterUID})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() { _ = server.Start(ctx) })

	shown := func() []byte {
		dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, ServerName: serviceNames[0]}}
		conn, err := dialer.DialContext(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			return nil
		}
		defer func() { _ = conn.Close() }()
		return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw
	}
	wait := func(want []byte) {
		t.Helper()
		block, _ := pem.Decode(want)
		for deadline := time.Now().Add(20 * time.Second); !bytes.Equal(shown(), block.Bytes); {
			if time.Now().After(deadline) {
				t.Fatal("the server does not show the current certificate")
			}
			time.Sleep(20 * time.Millisecond) // nothing tells of a served certificate but a connection
		}
	}
	first, _ := own.CurrentCertKeyContent()
	wait(first)
	clock.Step(certificateLifetime * 3 / 4)
	if err := own.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, _ := own.CurrentCertKeyContent()
	if bytes.Equal(first, second) {
		t.Fatal("the certificate was not renewed")
	}
	wait(second)
}
