//go:build helm

package helm

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

// effects are, for each value of the chart, a setting and what is rendered then, and not by
// default; or, after a "-", what is rendered by default only.
var effects = map[string]struct{ setting, want string }{
	"namespaces":                      {`["shop","bank"]`, "        - --namespaces=shop,bank\n"},
	"replicas":                        {`3`, "\n  replicas: 3"},
	"image.repository":                {`"registry.example.com:5000/manager"`, "image: registry.example.com:5000/manager:latest\n"},
	"image.tag":                       {`"v9"`, "image: ghcr.io/openworkflow-operator/manager:v9\n"},
	"image.digest":                    {`"sha256:` + strings.Repeat("a", 64) + `"`, "image: ghcr.io/openworkflow-operator/manager@sha256:aaa"},
	"image.pullPolicy":                {`"Always"`, "imagePullPolicy: Always\n"},
	"imagePullSecrets":                {`[{"name":"registry"}]`, "imagePullSecrets:\n        - name: registry\n"},
	"resources":                       {`{"limits":{"memory":"1Gi"}}`, "memory: 1Gi\n"},
	"extraArgs":                       {`["--zap-log-level=debug"]`, "        - --zap-log-level=debug\n"},
	"extraEnv":                        {`[{"name":"GOGC","value":"30"}]`, "env:\n        - name: GOGC\n          value: \"30\"\n"},
	"podLabels":                       {`{"team":"a"}`, "        team: a\n"},
	"podAnnotations":                  {`{"example.com/a":"true"}`, "        example.com/a: \"true\"\n"},
	"nodeSelector":                    {`{"disk":"ssd"}`, "nodeSelector:\n        disk: ssd\n"},
	"tolerations":                     {`[{"key":"a","operator":"Exists"}]`, "tolerations:\n        - key: a\n"},
	"affinity":                        {`{"podAntiAffinity":{}}`, "affinity:\n        podAntiAffinity: {}\n"},
	"topologySpreadConstraints":       {`[{"maxSkew":1}]`, "topologySpreadConstraints:\n        - maxSkew: 1\n"},
	"priorityClassName":               {`"system-cluster-critical"`, "priorityClassName: system-cluster-critical\n"},
	"serviceAccount.annotations":      {`{"example.com/role":"a"}`, "  annotations:\n    example.com/role: a\n"},
	"dataAPI.enabled":                 {`false`, "-- --data-api-bind-address=:8444\n"},
	"dataAPI.certificateSecret":       {`"tls"`, "secretName: tls\n"},
	"dataAPI.apiService.enabled":      {`true`, "kind: APIService\n"},
	"policies.enabled":                {`false`, "-kind: ValidatingAdmissionPolicy\n"},
	"policies.createdBy.enabled":      {`false`, "-kind: MutatingAdmissionPolicy\n"},
	"networkPolicy.enabled":           {`false`, "-kind: NetworkPolicy\n"},
	"metrics.serviceMonitor.enabled":  {`true`, "kind: ServiceMonitor\n"},
	"metrics.serviceMonitor.labels":   {`{"release":"prometheus"}`, "    release: prometheus\n"},
	"metrics.serviceMonitor.interval": {`"30s"`, "    interval: 30s\n"},
}

// needs are values without which another one has no effect.
var needs = map[string]string{
	"metrics.serviceMonitor.labels": "metrics.serviceMonitor.enabled=true", "metrics.serviceMonitor.interval": "metrics.serviceMonitor.enabled=true",
}

func TestValues_EachChangesWhatIsRendered(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(operator, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllSubmatch(page, -1) {
		documented = append(documented, string(row[1]))
	}
	slices.Sort(documented)
	if tested := slices.Sorted(maps.Keys(effects)); !slices.Equal(documented, tested) {
		t.Fatalf("values in README.md: %q\ntested values: %q", documented, tested)
	}
	withEach(t, func(h helm) {
		byDefault := h.template(operator, system, mutating...)
		for name, effect := range effects {
			with := slices.Clone(mutating)
			if need := needs[name]; need != "" {
				with = append(with, "--set", need)
			}
			text := h.template(operator, system, append(with, "--set-json", name+"="+effect.setting)...)
			there, gone := text, byDefault
			want, vanishes := strings.CutPrefix(effect.want, "-")
			if vanishes {
				there, gone = gone, there
			}
			if !strings.Contains(there, want) || strings.Contains(gone, want) {
				h.Errorf("%s=%s: rendered by default: %v, with it: %v: %q", name, effect.setting,
					strings.Contains(byDefault, want), strings.Contains(text, want), want)
			}
			checkManager(h.T, text)
		}
	})
}

// checkManager decodes the Deployment strictly, so that nothing is in a place where it has no
// meaning.
func checkManager(t *testing.T, stream string) {
	t.Helper()
	for document := range strings.SplitSeq(stream, "\n---") {
		if !strings.Contains(document, "\nkind: Deployment\n") {
			continue
		}
		var manager appsv1.Deployment
		if err := yaml.UnmarshalStrict([]byte(document), &manager); err != nil {
			t.Errorf("%v in\n%s", err, document)
		}
		return
	}
	t.Error("there is no Deployment")
}

func TestValues_P7_WrongOnesAreRefused(t *testing.T) {
	t.Parallel()
	withEach(t, func(h helm) {
		for _, test := range []struct{ chart, setting, want string }{
			{operator, `replica=2`, "additional properties 'replica' not allowed"},
			{operator, `image.repo="a"`, "additional properties 'repo' not allowed"},
			{operator, `metrics.serviceMonitor.enable=true`, "additional properties 'enable' not allowed"},
			{operator, `replicas="two"`, "got string, want integer"},
			{operator, `replicas=-1`, "minimum: got -1, want 0"},
			{operator, `replicas=1.5`, "got number, want integer"},
			{operator, `image.repository=""`, "minLength: got 0, want 1"},
			{operator, `image.tag="a b"`, "'a b' does not match pattern"},
			{operator, `image.digest="latest"`, "'latest' does not match pattern"},
			{operator, `image.pullPolicy="Sometimes"`, "value must be one of 'Always', 'IfNotPresent', 'Never'"},
			{operator, `namespaces="shop"`, "got string, want array"},
			{operator, `namespaces=["Shop"]`, "'Shop' does not match pattern"},
			{operator, `namespaces=["a","a"]`, "items at 0 and 1 are equal"},
			{operator, `extraArgs=["zap-log-level=debug"]`, "'zap-log-level=debug' does not match pattern"},
			{operator, `extraEnv=[{"value":"1"}]`, "missing property 'name'"},
			{operator, `resources.limit={"cpu":1}`, "additional properties 'limit' not allowed"},
			{operator, `podAnnotations={"a":true}`, "got boolean, want string"},
			{operator, `affinity.nodes={}`, "additional properties 'nodes' not allowed"},
			{operator, `policies.createdBy=true`, "got boolean, want object"},
			{operator, `policies.createdBy.enabled="auto"`, "got string, want boolean"},
			{operator, `policies.createdBy.on=true`, "additional properties 'on' not allowed"},
			{operator, `dataAPI.enabled="yes"`, "got string, want boolean"},
			{operator, `dataAPI={"enabled":false,"apiService":{"enabled":true}}`, "dataAPI.apiService.enabled needs dataAPI.enabled"},
			{operator, `metrics.serviceMonitor.interval="soon"`, "'soon' does not match pattern"},
			{crds, `keep=false`, "additional properties 'keep' not allowed"},
		} {
			stdout, stderr, err := h.try("template", "test", test.chart, "--kube-version", "1.37.0", "--set-json", test.setting)
			if err == nil || !strings.Contains(stderr, test.want) {
				h.Errorf("%s: %v: %s%s\nwant %q", test.setting, err, stderr, stdout[:min(len(stdout), 200)], test.want)
			}
		}
		_, stderr, err := h.try("template", "test", operator, "--kube-version", "1.29.0")
		if want := "requires kubeVersion: >=1.30.0-0"; err == nil || !strings.Contains(stderr, want) {
			h.Errorf("on Kubernetes 1.29: %v: %s, want %q", err, stderr, want)
		}
	})
}
