package main

import (
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	datav1alpha1 "github.com/openworkflow-operator/operator/api/data/v1alpha1"
)

// apiServer stands before the tests' API server, which has no kubelets: it forwards ports itself,
// to the data API of the tests.
type apiServer struct {
	t      *testing.T
	target string
	// refusal, not empty, is what a kubelet says of a port that does not answer.
	refusal string
	// aggregated is the answer for the data API's own path, 0 for that of the API server.
	aggregated int
	// log returns the log of a pod.
	log func(pod string, query url.Values) string
}

// serve returns how the server is reached, without a user.
func (s *apiServer) serve() *rest.Config {
	s.t.Helper()
	transport, err := rest.TransportFor(cluster.Env.Config)
	if err != nil {
		s.t.Fatal(err)
	}
	behind, err := url.Parse(cluster.Env.Config.Host)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(behind); r.Out.Header.Del("Authorization") }}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/portforward"):
			s.forward(w, r)
		case strings.HasSuffix(r.URL.Path, "/log"):
			_, _ = io.WriteString(w, s.log(path.Base(path.Dir(r.URL.Path)), r.URL.Query()))
		case s.aggregated != 0 && strings.HasPrefix(r.URL.Path, "/apis/data.openworkflow.dev"):
			w.WriteHeader(s.aggregated)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	s.t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{
		CAData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}}
}

// forward does what a kubelet does: it connects the stream of data with a port, and writes to the
// stream of errors when that fails. It speaks SPDY only, as API servers before 1.30 do.
func (s *apiServer) forward(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return
	}
	streams := make(chan httpstream.Stream, 2)
	connection := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	})
	if connection == nil {
		return
	}
	defer connection.Close()
	failures, data := <-streams, <-streams
	if failures.Headers().Get(corev1.StreamType) != corev1.StreamTypeError || data.Headers().Get(corev1.PortHeader) != "8444" {
		s.t.Errorf("unexpected streams: %v, %v", failures.Headers(), data.Headers())
	}
	if s.refusal != "" {
		_, _ = io.WriteString(failures, s.refusal)
		_ = failures.Close()
		<-connection.CloseChan()
		return
	}
	port, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", s.target)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer port.Close()
	go func() { _, _ = io.Copy(port, data) }()
	go func() { _, _ = io.Copy(data, port); _ = data.Close() }()
	<-connection.CloseChan()
}

// install creates what the manager's manifests create in a namespace, and a pod that is ready.
func (w *world) install(namespace, authority string, ready corev1.ConditionStatus) {
	w.t.Helper()
	labels := map[string]string{"app.kubernetes.io/name": "openworkflow", "app.kubernetes.io/component": "manager"}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: dataAPIService, Labels: labels}
	w.Create(&corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{
		Selector: labels, Ports: []corev1.ServicePort{{Port: 443, TargetPort: intstr.FromString("data-api")}},
	}})
	if authority != "" {
		w.Create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: dataAPIAuthority}, Data: map[string]string{dataAPIAuthorityKey: authority}})
	}
	pod := &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "manager", Image: "manager", Ports: []corev1.ContainerPort{{Name: "data-api", ContainerPort: 8444}},
	}}}}
	w.Create(pod)
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
	if err := cluster.Admin.Status().Update(w.t.Context(), pod); err != nil {
		w.t.Fatal(err)
	}
}

// list connects and lists the test's runs.
func (w *world) list(user *rest.Config, managerNamespace string) (*datav1alpha1.RunList, error) {
	w.t.Helper()
	config, err := connect(w.t.Context(), user, managerNamespace)
	if err != nil {
		return nil, err
	}
	client, err := restClient(config, datav1alpha1.GroupVersion)
	if err != nil {
		return nil, err
	}
	return (&dataClient{rest: client}).list(w.t.Context(), w.Namespace, fields.Everything(), 10, "")
}

// token returns a bearer token of a service account with the rights to list runs.
func (w *world) token() string {
	w.t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "reader"}}
	w.Create(account)
	w.Grant("reader", rule("list", "runs"))
	w.Create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.Namespace, Name: "account"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.Namespace, Name: "reader"}},
	})
	rights := rule("list", "runs")
	w.AwaitAllowed("system:serviceaccount:"+w.Namespace+":reader", &rights)
	request := &authenticationv1.TokenRequest{}
	if err := cluster.Admin.SubResource("token").Create(w.t.Context(), account, request); err != nil {
		w.t.Fatal(err)
	}
	return request.Status.Token
}

func TestConnect_P9_ShowsTheUsersIdentityThroughATunnel(t *testing.T) {
	w := setup(t)
	w.history()
	w.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: defaultManagerNamespace}})
	w.install(defaultManagerNamespace, string(cluster.Data.CAData), corev1.ConditionTrue)
	server := &apiServer{t: t, target: strings.TrimPrefix(cluster.Data.Host, "https://"), aggregated: http.StatusServiceUnavailable}
	reached := server.serve()

	certificate := rest.CopyConfig(reached)
	identity := w.User("editor-" + w.Namespace).Config() // whose rights setup has granted
	certificate.CertData, certificate.KeyData = identity.CertData, identity.KeyData
	token := rest.CopyConfig(reached)
	token.BearerToken = w.token()
	stranger := rest.CopyConfig(reached)
	other := w.User("other").Config()
	stranger.CertData, stranger.KeyData = other.CertData, other.KeyData

	for name, config := range map[string]*rest.Config{"certificate": certificate, "token": token} {
		if runs, err := w.list(config, defaultManagerNamespace); err != nil || len(runs.Items) != 5 {
			t.Errorf("by %s: %v, %v", name, runs, err)
		}
	}
	if _, err := w.list(stranger, defaultManagerNamespace); exitCode(err) != codeForbidden || !strings.Contains(err.Error(), `User "other" cannot list resource "runs"`) {
		t.Errorf("another user: %v", err)
	}
	if _, err := w.list(rest.CopyConfig(reached), defaultManagerNamespace); exitCode(err) != codeForbidden {
		t.Errorf("without an identity: %v", err)
	}
}

func TestConnect_UsesTheAPIServerWhereItServes(t *testing.T) {
	setup(t)
	user := (&apiServer{t: t, aggregated: http.StatusOK}).serve()
	if config, err := connect(t.Context(), user, defaultManagerNamespace); err != nil || config != user {
		t.Errorf("got %v, %v", config, err)
	}
}

func TestConnect_P7_SaysWhatIsMissing(t *testing.T) {
	w := setup(t)
	server := &apiServer{t: t, target: strings.TrimPrefix(cluster.Data.Host, "https://"), refusal: "nothing listens at port 8444"}
	user := server.serve()
	namespace := func(suffix string) string {
		name := w.Namespace + suffix
		w.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		return name
	}
	none, bare, unready, refusing := namespace("-none"), namespace("-bare"), namespace("-unready"), namespace("-refusing")
	w.install(bare, "", corev1.ConditionTrue)
	w.install(unready, string(cluster.Data.CAData), corev1.ConditionFalse)
	w.install(refusing, string(cluster.Data.CAData), corev1.ConditionTrue)
	for _, test := range []struct {
		namespace, message string
	}{
		{none, "has no Service openworkflow-data-api, so no data API is installed there: install the operator, or name its namespace by --manager-namespace or $OPENWORKFLOW_MANAGER_NAMESPACE"},
		{bare, "openworkflow-data-api-ca has no ca.crt"},
		{unready, "no manager is ready in namespace"},
		{refusing, "port 8444 of pod " + refusing + "/openworkflow-data-api: nothing listens at port 8444"},
	} {
		_, err := w.list(user, test.namespace)
		if err == nil || !strings.Contains(err.Error(), test.message) || exitCode(err) != codeUnreachable {
			t.Errorf("%s: exit code %d, %v; want %q", test.namespace, exitCode(err), err, test.message)
		}
	}

	server.refusal = ""
	if _, err := w.list(user, refusing); err == nil || !strings.Contains(err.Error(), "not openworkflow-data-api."+refusing+".svc") {
		t.Errorf("a server with a certificate of another name: %v", err)
	}
	direct := rest.CopyConfig(w.User("editor-" + w.Namespace).Config()) // who may not read the manager's namespace
	_, err := connect(context.WithoutCancel(t.Context()), direct, none)
	if exitCode(err) != codeForbidden || !strings.Contains(err.Error(), "create rolebinding data-api-users --role=openworkflow-data-api-connect --group=system:authenticated") {
		t.Errorf("without the Role: %v", err)
	}
}

// TestConnect_P9_TrustsNoNamespaceThatWasNotNamed: a tenant makes a Service of the data API, its authority and a pod
// in a namespace of theirs, and a user who may list all Services does not show them a token.
func TestConnect_P9_TrustsNoNamespaceThatWasNotNamed(t *testing.T) {
	w := setup(t)
	w.install(w.Namespace, string(cluster.Data.CAData), corev1.ConditionTrue)
	empty := w.Namespace + "-system"
	w.Create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: empty}})
	server := &apiServer{t: t, target: strings.TrimPrefix(cluster.Data.Host, "https://")}
	for _, namespace := range []string{empty, ""} {
		if config, err := connect(t.Context(), server.serve(), namespace); exitCode(err) != codeUnreachable {
			t.Errorf("in namespace %q: connected by %v, %v", namespace, config, err)
		}
	}
}
