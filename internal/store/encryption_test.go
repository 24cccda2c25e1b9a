package store_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/openworkflow-operator/operator/internal/store"
	"github.com/openworkflow-operator/operator/internal/testpg"
)

// TestOpen_P9_ChecksTheServersCertificate: what sslMode and the CA promise holds for a real server,
// whose certificate is for localhost and not for 127.0.0.1.
func TestOpen_P9_ChecksTheServersCertificate(t *testing.T) {
	t.Parallel()
	server := testpg.StartTLS(t)
	isHostname := func(err error) bool {
		_, hostname := errors.AsType[x509.HostnameError](err)
		return hostname
	}
	isAuthority := func(err error) bool {
		_, authority := errors.AsType[x509.UnknownAuthorityError](err)
		_, verification := errors.AsType[*tls.CertificateVerificationError](err)
		return authority || verification
	}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	const name, address = "localhost", "127.0.0.1"
	other := testpg.NewCA(t)
	for what, c := range map[string]struct {
		host, urlMode, mode string
		ca                  []byte
		wrong               func(error) bool // nil if it connects
		plain               bool
	}{
		"verify-full":                         {host: name, mode: "verify-full", ca: server.CA},
		"verify-full by the URL":              {host: name, urlMode: "verify-full", ca: server.CA},
		"verify-full by default":              {host: name, ca: server.CA},
		"another name":                        {host: address, mode: "verify-full", ca: server.CA, wrong: isHostname},
		"another name by default":             {host: address, ca: server.CA, wrong: isHostname},
		"another name, verify-ca":             {host: address, mode: "verify-ca", ca: server.CA},
		"another CA":                          {host: name, mode: "verify-full", ca: other, wrong: isAuthority},
		"another CA, verify-ca":               {host: name, mode: "verify-ca", ca: other, wrong: isAuthority},
		"another CA, require":                 {host: name, mode: "require", ca: other, wrong: isAuthority},
		"another CA, require by the URL":      {host: name, urlMode: "require", ca: other, wrong: isAuthority},
		"the system's CAs":                    {host: name, mode: "verify-full", wrong: isAuthority},
		"both certificates":                   {host: name, mode: "verify-full", ca: append(append([]byte{}, other...), server.CA...)},
		"require":                             {host: address, mode: "require"},
		"prefer":                              {host: address},
		"disable":                             {host: address, mode: "disable", plain: true},
		"disable by the URL":                  {host: address, urlMode: "disable", plain: true},
		"disable against the Backend":         {host: name, urlMode: "disable", mode: "verify-full", ca: server.CA, wrong: is(store.ErrInvalidURL)},
		"disable in disguise":                 {host: name, urlMode: "verify-full&ssl%6Dode=disable", mode: "verify-full", ca: server.CA, wrong: is(store.ErrInvalidURL)},
		"a mode that there is not":            {host: name, urlMode: "sure", wrong: is(store.ErrInvalidURL)},
		"a CA without a certificate":          {host: name, ca: []byte("-----BEGIN CERTIFICATE-----\n"), wrong: is(store.ErrInvalidCA)},
		"the same in the URL and the Backend": {host: name, urlMode: "verify-full", mode: "verify-full", ca: server.CA},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s, err := store.Open(t.Context(), store.Options{
				URL: server.URLFor(c.host, c.urlMode), Untrusted: true, Encryption: store.Encryption{Mode: c.mode, CA: c.ca},
			})
			if err == nil {
				defer s.Close()
			}
			switch {
			case c.wrong == nil && err != nil:
				t.Errorf("it does not connect: %v", err)
			case c.wrong != nil && (err == nil || !c.wrong(err)):
				t.Errorf("the error is %v", err)
			case err == nil && s.Encrypted() == c.plain:
				t.Errorf("the connection is encrypted: %t", s.Encrypted())
			}
		})
	}
}
