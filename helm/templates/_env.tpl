{{/* The environment: settings of the service, of telemetry, and of the command line in the pod. */}}

{{- define "claviger.env" -}}
{{- $v := .Values -}}
- name: CLAVIGER_LISTEN
  value: {{ printf "%s:50051" $v.listen.address | quote }}
- name: CLAVIGER_OPS_LISTEN
  value: {{ printf "%s:50052" $v.listen.address | quote }}
{{- if $v.tls.enabled }}
- name: CLAVIGER_TLS_CERT
  value: /etc/claviger/tls/{{ $v.tls.certKey }}
- name: CLAVIGER_TLS_KEY
  value: /etc/claviger/tls/{{ $v.tls.privateKeyKey }}
# For the command line in the pod.
- name: CLAVIGER_ADDR
  value: https://127.0.0.1:50051
{{ include "claviger.trust" . }}
{{- else }}
- name: CLAVIGER_PLAINTEXT
  value: {{ $v.plaintext }}
{{- end }}
{{- if eq $v.database.engine "embedded" }}
- name: CLAVIGER_DATA_DIR
  value: /var/lib/claviger/data
{{- else }}
- name: CLAVIGER_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ $v.database.postgresql.urlSecret.name }}
      key: {{ $v.database.postgresql.urlSecret.key }}
{{- end }}
{{- if $v.rootSecrets.secretName }}
- name: CLAVIGER_ROOT_SECRETS
  value: /etc/claviger/root-secrets
{{- end }}
{{- if $v.bootstrap.secretName }}
- name: CLAVIGER_BOOTSTRAP_KEY_FILE
  value: /etc/claviger/bootstrap/{{ $v.bootstrap.key }}
{{- end }}
{{- with $v.settings }}
- name: CLAVIGER_KEY_PREFIX
  value: {{ .keyPrefix | quote }}
{{- with .acceptedKeyPrefixes }}
- name: CLAVIGER_ACCEPTED_KEY_PREFIXES
  value: {{ join "," . | quote }}
{{- end }}
- name: CLAVIGER_HASH_PROFILE
  value: {{ .hashProfile }}
- name: CLAVIGER_PURGE_AFTER
  value: {{ .purgeAfter | quote }}
- name: CLAVIGER_DATABASE_CONNECTIONS
  value: {{ .databaseConnections | int | quote }}
- name: CLAVIGER_MAX_CALLS
  value: {{ .maxCalls | int | quote }}
{{- with .maxConnections | int }}
- name: CLAVIGER_MAX_CONNECTIONS
  value: {{ . | quote }}
{{- end }}
- name: CLAVIGER_CONNECTION_AGE
  value: {{ .connectionAge | quote }}
- name: CLAVIGER_REFLECTION
  value: {{ .reflection | quote }}
- name: CLAVIGER_LOG_FORMAT
  value: {{ .logFormat }}
- name: CLAVIGER_LOG
  value: {{ .log | quote }}
{{- end }}
- name: CLAVIGER_DRAIN_TIMEOUT
  value: {{ printf "%ds" (int $v.drain.timeoutSeconds) }}
{{- with $v.telemetry }}
{{- if .endpoint }}
- name: K8S_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: K8S_POD
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: K8S_NODE
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_SERVICE_NAME
  value: {{ .serviceName | quote }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(K8S_NAMESPACE),k8s.pod.name=$(K8S_POD),k8s.node.name=$(K8S_NODE)
    {{- range $name, $value := .resourceAttributes }},{{ $name }}={{ $value }}{{ end }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler }}
{{- if hasSuffix "traceidratio" .sampler }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplerRatio | quote }}
{{- end }}
- name: OTEL_METRIC_EXPORT_INTERVAL
  value: {{ mul .metricIntervalSeconds 1000 | quote }}
{{- end }}
{{- end }}
{{- with $v.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* By what the command line knows the service. */}}
{{- define "claviger.trust" -}}
{{- with .Values.tls.caKey -}}
- name: CLAVIGER_CA_FILE
  value: /etc/claviger/tls/{{ . }}
{{ end -}}
- name: CLAVIGER_SERVER_NAME
  value: {{ include "claviger.serverName" . }}
{{- end }}
