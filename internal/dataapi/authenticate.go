package dataapi

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/kubernetes"
	clientrest "k8s.io/client-go/rest"
)

const (
	// The ConfigMap in which the API server publishes the authorities of client certificates, and
	// how it names callers whose requests it passes on.
	authenticationNamespace, authenticationName = "kube-system", "extension-apiserver-authentication"

	// reviewTimeout bounds one TokenReview.
	reviewTimeout = 10 * time.Second
	// reviewCache is how long the API server's answer about a token or a right is used again.
	reviewCache = 10 * time.Second
)

// reviewBackoff repeats TokenReviews and SubjectAccessReviews.
var reviewBackoff = wait.Backoff{Duration: 200 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 4}

// authenticate makes the API server decide who a caller is and what they may do. It returns what
// keeps the authorities current. Package options of k8s.io/apiserver does this only for programs
// inside the cluster.
func authenticate(config *server.RecommendedConfig, rest *clientrest.Config) ([]dynamiccertificates.ControllerRunner, error) {
	rest = clientrest.CopyConfig(rest)
	rest.QPS, rest.Burst = 200, 400
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return nil, fmt.Errorf("reach the API server for reviews: %w", err)
	}
	certificates, err := dynamiccertificates.NewDynamicCAFromConfigMapController(
		"client-ca", authenticationNamespace, authenticationName, "client-ca-file", client)
	if err != nil {
		return nil, fmt.Errorf("read the authorities of client certificates: %w", err)
	}
	headers, names, err := requestHeaders(client)
	if err != nil {
		return nil, err
	}
	factory := authenticatorfactory.DelegatingAuthenticatorConfig{
		ClientCertificateCAContentProvider: certificates,
		TokenAccessReviewClient:            client.AuthenticationV1(),
		TokenAccessReviewTimeout:           reviewTimeout,
		WebhookRetryBackoff:                &reviewBackoff,
		CacheTTL:                           reviewCache,
		RequestHeaderConfig:                headers,
	}
	config.Authentication.RequestHeaderConfig = headers
	config.Authentication.Authenticator, config.OpenAPIConfig.SecurityDefinitions, err = factory.New()
	if err != nil {
		return nil, fmt.Errorf("configure authentication: %w", err)
	}
	config.Authorization.Authorizer, err = authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: client.AuthorizationV1(),
		AllowCacheTTL:             reviewCache,
		DenyCacheTTL:              reviewCache,
		WebhookRetryBackoff:       &reviewBackoff,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("configure authorization: %w", err)
	}
	return []dynamiccertificates.ControllerRunner{certificates, names}, nil
}

// requestHeaders returns how the API server names callers whose requests it passes on. In a
// cluster without an authority for that, no such request is accepted.
func requestHeaders(client kubernetes.Interface) (
	*authenticatorfactory.RequestHeaderConfig, dynamiccertificates.ControllerRunner, error,
) {
	authority, err := dynamiccertificates.NewDynamicCAFromConfigMapController(
		"request-header-ca", authenticationNamespace, authenticationName, "requestheader-client-ca-file", client)
	if err != nil {
		return nil, nil, fmt.Errorf("read the authority of the API server's own certificate: %w", err)
	}
	provider := &options.DynamicRequestHeaderController{
		ConfigMapCAController: authority,
		RequestHeaderAuthRequestController: headerrequest.NewRequestHeaderAuthRequestController(
			authenticationName, authenticationNamespace, client,
			"requestheader-username-headers", "requestheader-uid-headers", "requestheader-group-headers",
			"requestheader-extra-headers-prefix", "requestheader-allowed-names"),
	}
	if err := provider.RunOnce(context.Background()); err != nil {
		return nil, nil, fmt.Errorf("read how the API server names callers: %w", err)
	}
	return &authenticatorfactory.RequestHeaderConfig{
		CAContentProvider:   provider,
		UsernameHeaders:     headerrequest.StringSliceProviderFunc(provider.UsernameHeaders),
		UIDHeaders:          headerrequest.StringSliceProviderFunc(provider.UIDHeaders),
		GroupHeaders:        headerrequest.StringSliceProviderFunc(provider.GroupHeaders),
		ExtraHeaderPrefixes: headerrequest.StringSliceProviderFunc(provider.ExtraHeaderPrefixes),
		AllowedClientNames:  headerrequest.StringSliceProviderFunc(provider.AllowedClientNames),
	}, provider, nil
}
