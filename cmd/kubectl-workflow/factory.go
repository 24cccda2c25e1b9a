package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

// factory makes what verbs need from the flags that all of them share.
type factory struct {
	genericiooptions.IOStreams
	config *genericclioptions.ConfigFlags
	now    func() time.Time

	// managerNamespace is where the manager is installed.
	managerNamespace string
	// reach returns how the data API is reached with the credentials of a configuration.
	reach func(ctx context.Context, user *rest.Config, managerNamespace string) (*rest.Config, error)
	// connected is the client that data has returned.
	connected *dataClient
}

// addFlags adds kubectl's own flags, and those that all verbs share.
func (f *factory) addFlags(root *cobra.Command) {
	f.config.AddFlags(root.PersistentFlags())
	root.PersistentFlags().StringVar(&f.managerNamespace, "manager-namespace", cmp.Or(os.Getenv(managerNamespaceVariable), defaultManagerNamespace),
		"Namespace of the manager, which is shown your identity. By default $"+managerNamespaceVariable+", or "+defaultManagerNamespace+".")
	f.completeFlags(root)
}

// note tells the user something that is no output.
func (f *factory) note(format string, args ...any) {
	_, _ = fmt.Fprintf(f.ErrOut, format+"\n", args...) // nobody reads it then
}

// namespace returns the namespace of the flags, the context, or "default".
func (f *factory) namespace() (string, error) {
	namespace, _, err := f.config.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	return namespace, nil
}

// restConfig returns how the API server is reached.
func (f *factory) restConfig() (*rest.Config, error) {
	config, err := f.config.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	config.QPS = -1 // a person waits; the server has limits of its own
	return config, nil
}

// core returns a client of pods, logs, events and namespaces.
func (f *factory) core() (corev1client.CoreV1Interface, error) {
	config, err := f.restConfig()
	if err != nil {
		return nil, err
	}
	return corev1client.NewForConfig(config)
}

// objects returns a client of the custom resources.
func (f *factory) objects() (*rest.RESTClient, error) {
	config, err := f.restConfig()
	if err != nil {
		return nil, err
	}
	return restClient(config, v1alpha1.GroupVersion)
}

// objectsIn returns a client for the custom resources, and the namespace.
func (f *factory) objectsIn() (*rest.RESTClient, string, error) {
	namespace, err := f.namespace()
	if err != nil {
		return nil, "", err
	}
	objects, err := f.objects()
	return objects, namespace, err
}

// data returns a client of the data API. It connects once.
func (f *factory) data(ctx context.Context) (*dataClient, error) {
	if f.connected != nil {
		return f.connected, nil
	}
	return f.reconnect(ctx)
}

// dataIn is data, with the namespace that a verb reads.
func (f *factory) dataIn(ctx context.Context) (*dataClient, string, error) {
	namespace, err := f.namespace()
	if err != nil {
		return nil, "", err
	}
	data, err := f.data(ctx)
	return data, namespace, err
}

// reconnect is data with a new connection, after the one there was has failed.
func (f *factory) reconnect(ctx context.Context) (*dataClient, error) {
	config, err := f.restConfig()
	if err != nil {
		return nil, err
	}
	if config, err = f.reach(ctx, config, f.managerNamespace); err != nil {
		return nil, err
	}
	client, err := restClient(config, datav1alpha1.GroupVersion)
	if err != nil {
		return nil, err
	}
	f.connected = &dataClient{rest: client}
	return f.connected, nil
}

// scheme has all kinds that the plugin reads, writes and prints.
var scheme = newScheme()

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, datav1alpha1.AddToScheme} {
		if err := add(s); err != nil { // the kinds are fixed
			panic(err)
		}
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	s.AddKnownTypes(schema.GroupVersion{Version: "v1"}, &metav1.Table{})
	return s
}

func restClient(config *rest.Config, version schema.GroupVersion) (*rest.RESTClient, error) {
	config = rest.CopyConfig(config)
	config.GroupVersion, config.APIPath = &version, "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	config.UserAgent = "kubectl-workflow"
	return rest.RESTClientFor(config)
}
