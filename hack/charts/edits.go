package main

import "slices"

// edits are the fields that become values, by the key of their object. What is not here is in
// the chart as it is in config.
var edits = map[string]func(*editor){
	"Deployment openworkflow-system/openworkflow-manager":     editManager,
	"ServiceAccount openworkflow-system/openworkflow-manager": editServiceAccount,
	"NetworkPolicy openworkflow-system/openworkflow-manager":  editNetworkPolicy,
	"ServiceMonitor openworkflow-system/openworkflow-manager": editServiceMonitor,
}

// keep makes Helm leave a custom resource, and with it all objects of its kind, when the chart
// is uninstalled.
func keep(e *editor) {
	e.put("keep", "metadata", "annotations", "helm.sh/resource-policy")
}

func editManager(e *editor) {
	e.set("{{ .Values.replicas }}", "spec", "replicas")
	e.add(`{{- with .Values.podLabels }}
        {{- toYaml . | nindent 8 }}
{{- end }}`, "spec", "template", "metadata", "labels")
	e.add(`{{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
{{- end }}`, "spec", "template", "metadata", "annotations")
	editContainer(e, "spec", "template", "spec", "containers", "[name=manager]")
	for _, field := range []string{"imagePullSecrets", "nodeSelector", "tolerations", "affinity", "topologySpreadConstraints"} {
		e.add(`{{- with .Values.`+field+` }}
      `+field+`:
        {{- toYaml . | nindent 8 }}
{{- end }}`, "spec", "template", "spec")
	}
	e.add(`{{- with .Values.priorityClassName }}
      priorityClassName: {{ . }}
{{- end }}
{{- with .Values.dataAPI.certificateSecret }}
      volumes:
      - name: data-api-certificate
        secret:
          secretName: {{ . }}
{{- end }}`, "spec", "template", "spec")
}

func editContainer(e *editor, container ...string) {
	field := func(name string) []string { return append(slices.Clip(container), name) }
	e.set(`{{ include "openworkflow.image" . }}`, field("image")...)
	e.set("{{ .Values.image.pullPolicy }}", field("imagePullPolicy")...)
	e.replace(`          {{- toYaml .Values.resources | nindent 10 }}`, field("resources")...)
	e.when(".Values.dataAPI.enabled", "--data-api-bind-address", field("args")...)
	e.when(".Values.dataAPI.enabled", "name: data-api", field("ports")...)
	e.add(`{{- with .Values.namespaces }}
        - --namespaces={{ join "," . }}
{{- end }}
{{- if .Values.dataAPI.certificateSecret }}
        - --data-api-cert-dir=/etc/openworkflow/data-api
{{- end }}
{{- with .Values.extraArgs }}
        {{- toYaml . | nindent 8 }}
{{- end }}`, field("args")...)
	e.add(`{{- with .Values.extraEnv }}
        env:
        {{- toYaml . | nindent 8 }}
{{- end }}
{{- if .Values.dataAPI.certificateSecret }}
        volumeMounts:
        - name: data-api-certificate
          mountPath: /etc/openworkflow/data-api
          readOnly: true
{{- end }}`, container...)
}

func editServiceAccount(e *editor) {
	e.add(`{{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
{{- end }}`, "metadata")
}

func editNetworkPolicy(e *editor) {
	e.when(".Values.dataAPI.enabled", "port: 8444", "spec", "ingress")
}

func editServiceMonitor(e *editor) {
	e.add(`{{- with .Values.metrics.serviceMonitor.labels }}
    {{- toYaml . | nindent 4 }}
{{- end }}`, "metadata", "labels")
	e.add(`{{- with .Values.metrics.serviceMonitor.interval }}
    interval: {{ . }}
{{- end }}`, "spec", "endpoints", "[port=https]")
}
