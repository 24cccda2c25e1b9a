{{- /* What values.schema.json cannot say in a message of its own. */}}
{{- if and .Values.dataAPI.apiService.enabled (not .Values.dataAPI.enabled) }}
{{- fail "dataAPI.apiService.enabled needs dataAPI.enabled: without a server, the APIService would keep all namespaces from being deleted" }}
{{- end }}
