package testpg

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TLSServer is a Server that encrypts connections that ask for it.
type TLSServer struct {
	*Server
	// CA is the certificate, in PEM form, of who has signed the server's.
	CA []byte
}

// StartTLS starts a server whose certificate is for the name localhost, and not for its address.
func StartTLS(t testing.TB) TLSServer {
	t.Helper()
	owner, err := identity()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := newDir(owner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ca, certificate, key := newCertificates(t)
	for name, content := range map[string][]byte{"server.crt": certificate, "server.key": key} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if owner != nil {
			if err := os.Chown(file, int(owner.Uid), int(owner.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	server := Start(t, "ssl=on", "ssl_cert_file="+filepath.Join(dir, "server.crt"), "ssl_key_file="+filepath.Join(dir, "server.key"))
	return TLSServer{Server: server, CA: ca}
}

// URLFor returns the URL by this name of the host, and with this sslmode unless that is empty.
func (s TLSServer) URLFor(host, mode string) string {
	url, _, _ := strings.Cut(strings.Replace(s.URL(), "127.0.0.1", host, 1), "?")
	if mode != "" {
		url += "?sslmode=" + mode
	}
	return url
}

// NewCA returns the certificate, in PEM form, of somebody who has signed nothing.
func NewCA(t testing.TB) []byte {
	t.Helper()
	ca, _, _ := newCertificates(t)
	return ca
}

// newCertificates returns those of a CA and of a server that it has signed for, and the server's
// key, in PEM form.
func newCertificates(t testing.TB) (ca, server, key []byte) {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, serverKey := newKey(), newKey()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprintf("test %d", time.Now().UnixNano())},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	sign := func(c *x509.Certificate, public *ecdsa.PublicKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, authority, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	der, err := x509.MarshalECPrivateKey(serverKey)
	if err != nil {
		t.Fatal(err)
	}
	return sign(authority, &caKey.PublicKey), sign(leaf, &serverKey.PublicKey), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}
