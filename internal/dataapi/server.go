package dataapi

import (
	"context"
	"fmt"
	"net"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	clientrest "k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/internal/dataapi/openapi"
)

// requestTimeout bounds a request. It is longer than a statement may take, so that its error
// is reported.
const requestTimeout = 30 * time.Second

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
}

// Server serves the data API.
type Server struct {
	generic *server.GenericAPIServer
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
	namer := openapinamer.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = server.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIConfig.Info.Title = "OpenWorkflow data API"
	config.OpenAPIV3Config = server.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config.Info.Title = "OpenWorkflow data API"

	if err := secure(config, o); err != nil {
		return nil, err
	}
	generic, err := config.Complete().New("openworkflow-data-api", server.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("configure the data API: %w", err)
	}
	group := server.NewDefaultAPIGroupInfo(datav1alpha1.GroupVersion.Group, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap[datav1alpha1.GroupVersion.Version] = storage(reader{databases: databases, cluster: o.Cluster})
	if err := generic.InstallAPIGroups(&group); err != nil {
		return nil, fmt.Errorf("install the data API: %w", err)
	}
	return &Server{generic: generic}, nil
}

// Start serves until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	if err := s.generic.PrepareRun().RunWithContext(ctx); err != nil {
		return fmt.Errorf("serve the data API: %w", err)
	}
	return nil
}

// NeedLeaderElection says that standbys serve too.
func (s *Server) NeedLeaderElection() bool { return false }

// secure sets how connections are encrypted and callers are identified.
func secure(config *server.RecommendedConfig, o Options) error {
	serving := options.NewSecureServingOptions()
	serving.Listener = o.Listener
	serving.ServerCert = options.GeneratableKeyCert{GeneratedCert: o.Certificate}
	serving.HTTP2MaxStreamsPerConnection = 1000
	if err := serving.WithLoopback().ApplyToConfig(&config.Config); err != nil {
		return fmt.Errorf("configure the data API's listener: %w", err)
	}
	return authenticate(config, o.Config)
}

// storage returns the handlers of the resources.
func storage(r reader) map[string]rest.Storage {
	return map[string]rest.Storage{
		"runs":         &runs{reader: r},
		"runs/steps":   &runSteps{reader: r},
		"runs/payload": &runPayload{reader: r},
		"runs/history": &runHistory{reader: r},
		"runs/signal":  &runSignal{reader: r},
		"runs/cancel":  &runCancel{reader: r},
		"runs/suspend": &runSuspend{reader: r},
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
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return scheme, serializer.NewCodecFactory(scheme)
}
