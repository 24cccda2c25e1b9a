package dataapi

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/backoff"
)

const (
	// SecretName is the Secret of the manager's namespace with the authority and the certificate
	// of the data API.
	SecretName = "openworkflow-data-api"
	// AuthorityName is the ConfigMap of that namespace from which clients read the authority.
	AuthorityName = "openworkflow-data-api-ca"

	keyAuthority, keyAuthorityKey = "ca.crt", "ca.key"

	authorityLifetime   = 10 * 365 * 24 * time.Hour
	certificateLifetime = 90 * 24 * time.Hour
	// certificateCheck is the time between two looks at the Secret, because another replica may
	// have renewed the certificate, and at the APIService, which may have been applied since.
	certificateCheck = 30 * time.Second
)

// certificateBackoff repeats a look that has failed.
var certificateBackoff = backoff.Policy{First: time.Second, Max: time.Minute}

// Certificates issue the certificate of the data API and renew it after two thirds of its
// lifetime of 90 days. All replicas of the manager share it: whichever finds it missing or old
// writes a new one to the Secret, and the others read that. The authority lasts 10 years. A new
// one is published together with the old one, which clients trust until it ends.
type Certificates struct {
	// Client reads and writes the Secret and the ConfigMap, without a cache.
	Client client.Client
	// Namespace is the manager's.
	Namespace string
	// Names are those by which clients reach the data API.
	Names []string
	Clock clock.WithTicker
	Log   logr.Logger

	mu        sync.Mutex
	cert, key []byte
	listeners []dynamiccertificates.Listener
}

var _ dynamiccertificates.CertKeyContentProvider = &Certificates{}

// Name is that of the provider, for logs.
func (c *Certificates) Name() string { return "data-api" }

// CurrentCertKeyContent returns the certificate and its key, as PEM.
func (c *Certificates) CurrentCertKeyContent() (cert, key []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cert, c.key
}

// AddListener makes l learn of new certificates.
func (c *Certificates) AddListener(l dynamiccertificates.Listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners, l)
}

// NeedLeaderElection says that standbys need the certificate too.
func (c *Certificates) NeedLeaderElection() bool { return false }

// Start keeps the certificate current until ctx ends.
func (c *Certificates) Start(ctx context.Context) error {
	failures := 0
	for {
		wait := backoff.Jitter(certificateCheck)
		if err := c.Refresh(ctx); err != nil {
			if failures++; failures == 1 {
				c.Log.Error(err, "Could not refresh the certificate of the data API")
			}
			wait = certificateBackoff.Delay(failures)
		} else {
			failures = 0
		}
		timer := c.Clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		}
	}
}

// Refresh reads the Secret, renews what is missing or old, and publishes the authority. When
// another replica has written at the same time, it reads what that has written.
func (c *Certificates) Refresh(ctx context.Context) error {
	const tries = 4
	var err error
	for range tries {
		if err = c.refresh(ctx); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return err
}

func (c *Certificates) refresh(ctx context.Context) error {
	secret := &corev1.Secret{}
	err := c.Client.Get(ctx, types.NamespacedName{Namespace: c.Namespace, Name: SecretName}, secret)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return fmt.Errorf("read Secret %s: %w", SecretName, err)
	}
	issued := issued{authority: secret.Data[keyAuthority], authorityKey: secret.Data[keyAuthorityKey],
		cert: secret.Data[corev1.TLSCertKey], key: secret.Data[corev1.TLSPrivateKeyKey]}
	changed, err := issued.renew(c.Names, c.Clock.Now())
	if err != nil {
		return err
	}
	if changed {
		secret.Namespace, secret.Name, secret.Type = c.Namespace, SecretName, corev1.SecretTypeTLS
		secret.Data = map[string][]byte{
			keyAuthority: issued.authority, keyAuthorityKey: issued.authorityKey,
			corev1.TLSCertKey: issued.cert, corev1.TLSPrivateKeyKey: issued.key,
		}
		write := c.Client.Create
		if !missing {
			write = func(ctx context.Context, o client.Object, _ ...client.CreateOption) error {
				return c.Client.Update(ctx, o)
			}
		}
		if err := write(ctx, secret); err != nil {
			return fmt.Errorf("write Secret %s: %w", SecretName, err)
		}
	}
	if err := c.publish(ctx, issued.authority); err != nil {
		return err
	}
	c.set(issued.cert, issued.key)
	return nil
}

// set makes a certificate the current one.
func (c *Certificates) set(cert, key []byte) {
	c.mu.Lock()
	same := string(c.cert) == string(cert)
	c.cert, c.key = cert, key
	listeners := c.listeners
	c.mu.Unlock()
	if same {
		return
	}
	for _, l := range listeners {
		l.Enqueue()
	}
}

// publish writes the authority to the ConfigMap, if it is not there.
func (c *Certificates) publish(ctx context.Context, authority []byte) error {
	shown := &corev1.ConfigMap{}
	err := c.Client.Get(ctx, types.NamespacedName{Namespace: c.Namespace, Name: AuthorityName}, shown)
	switch {
	case apierrors.IsNotFound(err):
		shown = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: AuthorityName}}
		shown.Data = map[string]string{keyAuthority: string(authority)}
		err = c.Client.Create(ctx, shown)
	case err == nil && shown.Data[keyAuthority] != string(authority):
		shown.Data = map[string]string{keyAuthority: string(authority)}
		err = c.Client.Update(ctx, shown)
	}
	if err != nil {
		return fmt.Errorf("publish the authority in ConfigMap %s: %w", AuthorityName, err)
	}
	return c.publishToAPIService(ctx, authority)
}

// apiServiceName is the APIService by which the API server passes requests on to the data API.
var apiServiceName = datav1alpha1.GroupVersion.Version + "." + datav1alpha1.GroupVersion.Group

// publishToAPIService makes the API server trust the authority. The APIService and the right to
// change it are optional, so without them there is nothing to do.
func (c *Certificates) publishToAPIService(ctx context.Context, authority []byte) error {
	service := &unstructured.Unstructured{}
	service.SetGroupVersionKind(schema.GroupVersionKind{Group: "apiregistration.k8s.io", Version: "v1", Kind: "APIService"})
	err := c.Client.Get(ctx, types.NamespacedName{Name: apiServiceName}, service)
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get APIService %s: %w", apiServiceName, err)
	}
	trusted, _, _ := unstructured.NestedString(service.Object, "spec", "caBundle")
	if wanted := base64.StdEncoding.EncodeToString(authority); trusted != wanted {
		patch := client.MergeFrom(service.DeepCopy())
		if err := unstructured.SetNestedField(service.Object, wanted, "spec", "caBundle"); err != nil {
			return fmt.Errorf("set the authority of APIService %s: %w", apiServiceName, err)
		}
		if err := c.Client.Patch(ctx, service, patch); err != nil {
			return fmt.Errorf("patch APIService %s: %w", apiServiceName, err)
		}
	}
	return nil
}

// issued is an authority and a certificate that it has signed, as PEM. The authority may have
// several certificates: the first one signs.
type issued struct{ authority, authorityKey, cert, key []byte }

// renew replaces what is missing, old, or made for other names. It reports whether anything was.
func (i *issued) renew(names []string, now time.Time) (changed bool, err error) {
	authority, err := parse(i.authority, now, authorityLifetime)
	if err != nil || len(i.authorityKey) == 0 {
		if err := i.newAuthority(now); err != nil {
			return false, err
		}
		authority, _ = parse(i.authority, now, authorityLifetime)
		i.cert, changed = nil, true
	}
	cert, err := parse(i.cert, now, certificateLifetime)
	if err == nil && cert.CheckSignatureFrom(authority) == nil && covers(cert, names) {
		return changed, nil
	}
	return true, i.newCertificate(authority, names, now)
}

var errRenew = errors.New("it is missing or to be renewed")

// parse returns the first certificate. It is an error if a third or less of its lifetime is
// left.
func parse(text []byte, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errRenew
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRenew, err)
	}
	if now.Before(cert.NotBefore) || cert.NotAfter.Sub(now) < lifetime/3 {
		return nil, errRenew
	}
	return cert, nil
}

func covers(cert *x509.Certificate, names []string) bool {
	for _, name := range names {
		if cert.VerifyHostname(name) != nil {
			return false
		}
	}
	return true
}

// newAuthority puts a new authority before the one that is there, so that clients trust both.
func (i *issued) newAuthority(now time.Time) error {
	template := certificate("openworkflow-data-api-ca", now, authorityLifetime)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	cert, key, err := sign(template, nil, nil)
	if err != nil {
		return err
	}
	old, _ := pem.Decode(i.authority)
	if old != nil {
		cert = append(cert, pem.EncodeToMemory(old)...)
	}
	i.authority, i.authorityKey = cert, key
	return nil
}

func (i *issued) newCertificate(authority *x509.Certificate, names []string, now time.Time) error {
	block, _ := pem.Decode(i.authorityKey)
	if block == nil {
		return errors.New("the key of the data API's authority is no PEM")
	}
	signer, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("read the key of the data API's authority: %w", err)
	}
	template := certificate(names[0], now, certificateLifetime)
	template.DNSNames = names
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	i.cert, i.key, err = sign(template, authority, signer)
	return err
}

// certificate returns a template. It is valid from an hour ago, for clients whose clocks are
// behind.
func certificate(name string, now time.Time, lifetime time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil { // Go's random source does not fail
		panic(err)
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(lifetime),
	}
}

// sign makes a key and has its certificate signed, by itself without a parent.
func sign(template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (cert, key []byte, err error) {
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if parent == nil {
		parent, signer = template, made
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, made.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign a certificate: %w", err)
	}
	encoded, err := x509.MarshalECPrivateKey(made)
	if err != nil {
		return nil, nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}), nil
}
