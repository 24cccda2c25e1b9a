package main

import (
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/openworkflow-operator/operator/api/v1alpha1"
)

func TestLinesAbout_SelectsLinesWithTheID(t *testing.T) {
	t.Parallel()
	const id = "0198b0a4-8e4f-7c11-9d5c-6a1f2f6f2c11"
	log := strings.Join([]string{
		`{"level":"INFO","msg":"Claimed","run":"` + id + `"}`,
		`{"level":"INFO","msg":"Claimed","run":"` + id + `2"}`,
		`{"level":"INFO","msg":"Claimed","run":"x-` + id + `"}`,
		`plain text about run ` + id + `.` + "\r",
		strings.Repeat("x", maxLogLine) + " " + id,
		`nothing`,
		``,
		`the last line has no end, ` + id,
	}, "\n")
	var out strings.Builder
	if err := linesAbout(strings.NewReader(log), id, "[pod/a] ", &out); err != nil {
		t.Fatal(err)
	}
	want := `[pod/a] {"level":"INFO","msg":"Claimed","run":"` + id + `"}
[pod/a] plain text about run ` + id + `.
[pod/a] the last line has no end, ` + id + "\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// pod creates a worker pod of the Backend default.
func (w *world) pod(name string, annotations map[string]string, containers ...string) {
	w.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: w.Namespace, Name: name, Annotations: annotations,
		Labels: map[string]string{v1alpha1.LabelWorkerPool: "pool", v1alpha1.LabelBackend: "default"},
	}}
	for _, c := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: c, Image: "image"})
	}
	w.Create(pod)
}

func TestLogs_ReadsTheWorkersOfTheBackend(t *testing.T) {
	w := setup(t)
	w.history()
	w.pod("a", map[string]string{v1alpha1.AnnotationWorkerContainer: "app"}, "proxy", "app")
	w.pod("b", nil, "proxy", "worker")
	server := &apiServer{t: t, log: func(pod string, query url.Values) string {
		if query.Get("sinceTime") != "2026-01-01T11:02:00Z" || query.Get("follow") != "" {
			t.Errorf("the log of %s is read with %v", pod, query)
		}
		return pod + " " + query.Get("container") + " executes " + runSeq(2) + "\nsomething else\n"
	}}
	config := server.serve()
	identity := w.User("editor-" + w.Namespace).Config()
	config.CertData, config.KeyData = identity.CertData, identity.KeyData
	got := w.runAs(w.kubeconfigFor(config), "", "logs", runSeq(2))
	want := result{out: "[pod/a] a app executes " + runSeq(2) + "\n[pod/b] b worker executes " + runSeq(2) + "\n"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	server.log = func(string, url.Values) string { return "something else\n" }
	got = w.runAs(w.kubeconfigFor(config), "", "logs", runSeq(2))
	if want := (result{errOut: "No line in the logs of the worker pods names run " + runSeq(2) + ".\n"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestLogs_P7_SaysWhatIsMissing(t *testing.T) {
	w := setup(t)
	w.history()
	if got := w.run("logs", runSeq(2)); got.code != codeDone || !strings.HasPrefix(got.errOut, "No worker pods of Backend default in namespace") {
		t.Errorf("without pods: %+v", got)
	}
	w.fails(codeError, "--since and --limit-bytes are not negative", "logs", runSeq(2), "--since", "-1s")
	w.fails(codeNotFound, `there is no WorkflowRun and no run "none"`, "logs", "none")
	reader := w.runAs(w.user("reader", rule("get", "runs")), "", "logs", runSeq(2))
	if reader.code != codeForbidden || !strings.Contains(reader.errOut, "find the worker pods: pods is forbidden") {
		t.Errorf("without the right to list pods: %+v", reader)
	}
}

// kubeconfigFor writes a configuration as a kubeconfig.
func (w *world) kubeconfigFor(config *rest.Config) string {
	w.t.Helper()
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	path := filepath.Join(w.t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*file, path); err != nil {
		w.t.Fatal(err)
	}
	return path
}
