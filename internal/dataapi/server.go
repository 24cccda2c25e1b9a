package dataapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/util/compatibility"
	clientrest "k8s.io/client-go/rest"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	ctrl "sigs.k8s.io/controller-runtime"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dataapi/openapi"
)

// requestTimeout bounds a request. It is longer than a statement may take, so that its error
// is reported.
const requestTimeout = 30 * time.Second

// shutdownTimeout bounds the wait for requests in flight when the server ends.
const shutdownTimeout = 5 * time.Second

// Options say how the data API is served.
type Options struct {
	// Listener accepts connections. The server closes it.
	Listener net.Listener
	// Certificate is the one that the server shows.
	Certificate dynamiccertificates.CertKeyContentProvider
	// Config reaches the API server that decides who a caller is and what they may do.
	Config *clientrest.Config
	// Cluster is the uid of the kube-system namespace, which the contexts of runs name.
	Cluster string
	// AttachAcrossNamespaces allows an idempotency key to find the run of an object in another
	// namespace.
	AttachAcrossNamespaces bool
}

// Server serves the data API.
type Server struct {
	generic *server.GenericAPIServer
	// authorities are kept current while the server runs.
	authorities []dynamiccertificates.ControllerRunner
	listener    net.Listener
	certificate dynamiccertificates.CertKeyContentProvider
}

// New returns a server that reads and writes by the databases. Callers are identified by the
// API server: client certificates by its authorities, tokens by TokenReview. What they may do
// is decided by SubjectAccessReview.
func New(databases *Databases, o Options) (*Server, error) {
	scheme, codecs := newScheme()
	config := server.NewRecommendedConfig(codecs)
	config.ClientConfig = o.Config
	config.EffectiveVersion = compatibility.DefaultBuildEffectiveVersion()
	config.RequestTimeout = requestTimeout
	config.EnableIndex, config.EnableProfiling, config.EnableMetrics = false, false, false
	config.BuildHandlerChainFunc = func(handler http.Handler, c *server.Config) http.Handler {
		return server.DefaultBuildHandlerChain(limitRequests(handler, codecs), c)
	}
	namer := openapinamer.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = server.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title = "OpenWorkflow data API"
	config.OpenAPIV3Config = server.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title = "OpenWorkflow data API"
	named := definitionName(namer)
	config.OpenAPIConfig.GetDefinitionName, config.OpenAPIV3Config.GetDefinitionName = named, named
	config.OpenAPIV3Config.Definitions = openapi.GetOpenAPIDefinitions(func(name string) spec.Ref {
		name, _ = named(name)
		return spec.MustCreateRef("#/components/schemas/" + openapicommon.EscapeJsonPointer(name))
	})

	// The generic server keeps the certificate that it serves in a way that is a data race, and
	// nothing calls it by a loopback connection. So this package serves.
	config.SecureServing = &server.SecureServingInfo{Listener: newIdleListener(o.Listener.Addr())}
	config.LoopbackClientConfig = &clientrest.Config{}
	authorities, err := authenticate(config, o.Config)
	if err != nil {
		return nil, err
	}
	generic, err := config.Complete().New("openworkflow-data-api", server.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("configure the data API: %w", err)
	}
	group := server.NewDefaultAPIGroupInfo(datav1alpha1.GroupVersion.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap[datav1alpha1.GroupVersion.Version] = storage(
		reader{
			databases: databases, cluster: o.Cluster, authorizer: config.Authorization.Authorizer, attachAcross: o.AttachAcrossNamespaces,
		}, o.Certificate)
	if err := generic.InstallAPIGroups(&group); err != nil {
		return nil, fmt.Errorf("install the data API: %w", err)
	}
	return &Server{generic: generic, authorities: authorities, listener: o.Listener, certificate: o.Certificate}, nil
}

// Start serves until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, a := range s.authorities {
		running.Go(func() { a.Run(ctx, 1) })
	}
	prepared := s.generic.PrepareRun()
	running.Go(func() { _ = prepared.RunWithContext(ctx) })

	server := &http.Server{
		Handler:           s.generic.Handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    1 << 20,
		ErrorLog:          slog.NewLogLogger(logr.ToSlogHandler(ctrl.Log.WithName("data-api")), slog.LevelDebug),
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 1000}, // the API server passes all on by one connection
		// The authenticator verifies client certificates, by authorities that may change.
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, GetCertificate: s.current,
		},
	}
	context.AfterFunc(ctx, func() {
		ending, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
		defer cancel()
		if server.Shutdown(ending) != nil {
			_ = server.Close()
		}
	})
	if err := server.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the data API: %w", err)
	}
	return nil
}

// current returns the certificate for a connection.
func (s *Server) current(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	cert, err := tls.X509KeyPair(s.certificate.CurrentCertKeyContent())
	if err != nil {
		return nil, fmt.Errorf("use the certificate of the data API: %w", err)
	}
	return &cert, nil
}

// NeedLeaderElection says that standbys serve too.
func (s *Server) NeedLeaderElection() bool { return false }

// storage returns the handlers of the resources.
func storage(r reader, certificate dynamiccertificates.CertKeyContentProvider) map[string]rest.Storage {
	return map[string]rest.Storage{
		"runs":         &runs{reader: r},
		"runs/steps":   &runSteps{reader: r},
		"runs/payload": &runPayload{reader: r},
		"runs/history": &runHistory{reader: r},
		"runs/why":     &runWhy{reader: r},
		"runs/state":   &runState{reader: r},
		"workflows":    &workflows{reader: r},
		"diagnoses":    &diagnoses{reader: r, certificate: certificate},
		"runs/signal":  &runSignal{reader: r},
		"runs/cancel":  &runCancel{reader: r},
		"runs/suspend": &runSuspend{reader: r},
		"runs/fork":    &runFork{reader: r},
		"bulkretries":  &bulkRetries{reader: r},
		"approvals":    &approvals{reader: r},

		"scheduleslots": &scheduleSlots{reader: r},
	}
}

// definitionName names schemas as the scheme does, which also adds the kind to each. The generated
// schemas have the paths of Go types. Without the kind, kubectl explain finds no schema, and the
// server logs an error for each object that it creates.
func definitionName(namer *openapinamer.DefinitionNamer) func(string) (string, spec.Extensions) {
	return func(name string) (string, spec.Extensions) {
		if strings.Contains(name, "/") {
			name = util.ToRESTFriendlyName(name)
		}
		return namer.GetDefinitionName(name)
	}
}

// newScheme returns the kinds of the data API. There is one version, so no other is converted.
func newScheme() (*runtime.Scheme, serializer.CodecFactory) {
	scheme := runtime.NewScheme()
	must := func(err error) {
		if err != nil { // the kinds are fixed
			panic(err)
		}
	}
	must(datav1alpha1.AddToScheme(scheme))
	must(scheme.SetVersionPriority(datav1alpha1.GroupVersion))
	must(scheme.AddFieldLabelConversionFunc(datav1alpha1.GroupVersion.WithKind("Run"), convertField))
	must(scheme.AddFieldLabelConversionFunc(datav1alpha1.GroupVersion.WithKind("Approval"), convertApprovalField))
	must(scheme.AddFieldLabelConversionFunc(datav1alpha1.GroupVersion.WithKind("ScheduleSlot"), convertSlotField))
	must(scheme.AddConversionFunc((*url.Values)(nil), (*datav1alpha1.ReadOptions)(nil), convertReadOptions))
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return scheme, serializer.NewCodecFactory(scheme)
}

// idleListener accepts no connection.
type idleListener struct {
	address net.Addr
	once    sync.Once
	closed  chan struct{}
}

func newIdleListener(address net.Addr) *idleListener {
	return &idleListener{address: address, closed: make(chan struct{})}
}

// Accept returns when the listener is closed.
func (l *idleListener) Accept() (net.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

// Close ends Accept.
func (l *idleListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns the address at which another listener accepts.
func (l *idleListener) Addr() net.Addr { return l.address }
