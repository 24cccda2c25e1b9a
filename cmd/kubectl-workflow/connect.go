package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/discovery"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

const (
	// defaultManagerNamespace is where config/default installs the manager, and managerNamespaceVariable
	// the environment variable that names another namespace.
	defaultManagerNamespace, managerNamespaceVariable = "openworkflow-system", "OPENWORKFLOW_MANAGER_NAMESPACE"
	// dataAPIService is the Service before the data API.
	dataAPIService = "openworkflow-data-api"
	// dataAPIAuthority is the ConfigMap with the authority that signs its certificate.
	dataAPIAuthority, dataAPIAuthorityKey = "openworkflow-data-api-ca", "ca.crt"
	// connectRole is the Role that allows what connect does.
	connectRole = "openworkflow-data-api-connect"
)

// connect reaches the data API: through the API server where that serves it, else by a port of
// a manager's pod, to which the user's certificate or token is shown.
func connect(ctx context.Context, user *rest.Config, managerNamespace string) (*rest.Config, error) {
	served, err := apiServerServes(ctx, user)
	if err != nil || served {
		return user, err
	}
	core, err := corev1client.NewForConfig(user)
	if err != nil {
		return nil, err
	}
	service, err := findService(ctx, core, managerNamespace)
	if err != nil {
		return nil, err
	}
	authority, err := core.ConfigMaps(service.Namespace).Get(ctx, dataAPIAuthority, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || (err == nil && authority.Data[dataAPIAuthorityKey] == ""):
		return nil, unreachable(fmt.Errorf("ConfigMap %s/%s has no %s: the manager publishes it once it serves the data API; "+
			"with --data-api-cert-dir an administrator must create it", service.Namespace, dataAPIAuthority, dataAPIAuthorityKey))
	case err != nil:
		return nil, connectError("read the authority of the data API", service.Namespace, err)
	}
	pods, err := readyPods(ctx, core, service)
	if err != nil {
		return nil, err
	}
	tunnel := &tunnel{user: user, core: core.RESTClient(), pods: pods}
	return forwardedConfig(user, service.Namespace, []byte(authority.Data[dataAPIAuthorityKey]), tunnel), nil
}

// apiServerServes reports whether the API server passes on requests for the data API.
func apiServerServes(ctx context.Context, user *rest.Config) (bool, error) {
	client, err := discovery.NewDiscoveryClientForConfig(user)
	if err != nil {
		return false, err
	}
	path := "/apis/" + datav1alpha1.GroupVersion.String()
	err = client.RESTClient().Get().AbsPath(path).Do(ctx).Error()
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &status) && !apierrors.IsUnauthorized(err):
		return false, nil // no such APIService, or no manager answers behind it
	default:
		return false, fmt.Errorf("reach the API server: %w", err)
	}
}

// findService returns the Service of the data API in the manager's namespace. Whoever controls that namespace
// gets the user's token, so no other is taken because a Service of this name is there.
func findService(ctx context.Context, core corev1client.CoreV1Interface, namespace string) (*corev1.Service, error) {
	service, err := core.Services(namespace).Get(ctx, dataAPIService, metav1.GetOptions{})
	switch {
	case err == nil:
		return service, nil
	case apierrors.IsNotFound(err):
		return nil, unreachable(fmt.Errorf("namespace %q has no Service %s, so no data API is installed there: "+
			"install the operator, or name its namespace by --manager-namespace or $%s", namespace, dataAPIService, managerNamespaceVariable))
	default:
		return nil, connectError("find the data API", namespace, err)
	}
}

// readyPods returns the endpoints of the Service's pods that are ready, in random order.
func readyPods(ctx context.Context, core corev1client.CoreV1Interface, service *corev1.Service) ([]endpoint, error) {
	selector := labels.SelectorFromSet(service.Spec.Selector).String()
	pods, err := core.Pods(service.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, connectError("find a manager", service.Namespace, err)
	}
	var ready []endpoint
	for i := range pods.Items {
		if pod := &pods.Items[i]; isReady(pod) {
			if port := targetPort(service, pod); port != 0 {
				ready = append(ready, endpoint{namespace: pod.Namespace, pod: pod.Name, port: port})
			}
		}
	}
	if len(ready) == 0 {
		return nil, unreachable(fmt.Errorf("no manager is ready in namespace %q: see kubectl -n %s get pods -l %s", service.Namespace, service.Namespace, selector))
	}
	rand.Shuffle(len(ready), func(i, j int) { ready[i], ready[j] = ready[j], ready[i] })
	return ready, nil
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil
		}
	}
	return false
}

// targetPort returns the pod's port to which the Service leads, 0 if the pod has none.
func targetPort(service *corev1.Service, pod *corev1.Pod) int32 {
	if len(service.Spec.Ports) == 0 {
		return 0
	}
	target := service.Spec.Ports[0].TargetPort
	if target.Type == intstr.Int {
		return target.IntVal
	}
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name == target.StrVal {
				return port.ContainerPort
			}
		}
	}
	return 0
}

// forwardedConfig returns the user's configuration with another server behind a tunnel. The
// user's certificate, token or plugin is kept, and shown to nobody without the certificate that
// the authority has signed for the Service.
func forwardedConfig(user *rest.Config, namespace string, authority []byte, tunnel *tunnel) *rest.Config {
	config := rest.CopyConfig(user)
	config.Host = "https://" + dataAPIService + "." + namespace + ".svc"
	config.Dial = tunnel.dial
	config.Proxy = func(*http.Request) (*url.URL, error) { return nil, nil } // the tunnel uses it already
	config.TLSClientConfig = rest.TLSClientConfig{
		CAData:   authority,
		CertFile: user.CertFile, CertData: user.CertData,
		KeyFile: user.KeyFile, KeyData: user.KeyData,
	}
	return config
}

// connectError says which right a user lacks.
func connectError(doing, namespace string, err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%s: %w\nAn administrator grants this to everybody:\n  kubectl -n %s create rolebinding data-api-users --role=%s --group=system:authenticated",
			doing, err, namespace, connectRole)
	}
	return unreachable(fmt.Errorf("%s: %w", doing, err))
}
