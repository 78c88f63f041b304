{{/* Names and labels. */}}

{{- define "claviger.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{/* At most 52 characters: what is put behind it, by this chart or by a StatefulSet, ends within 63. What is cut off
     leaves a digest, so that two long names stay two. Dots are good in a release's name and not in a Service's. */}}
{{- define "claviger.fullname" -}}
{{- $name := include "claviger.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $whole := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | replace "." "-" -}}
{{- if gt (len $whole) 52 -}}
{{- printf "%s-%s" ($whole | trunc 43 | trimSuffix "-") (sha256sum $whole | trunc 8) -}}
{{- else -}}
{{- $whole -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "claviger.headless" -}}
{{- include "claviger.fullname" . }}-headless
{{- end }}

{{- define "claviger.address" -}}
{{- include "claviger.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "claviger.serverName" -}}
{{- .Values.tls.serverName | default (include "claviger.address" .) -}}
{{- end }}

{{/* By these the pods of the service are told from those of the Job and of the test. They never change: a Deployment's
     selector cannot. */}}
{{- define "claviger.selector" -}}
app.kubernetes.io/name: {{ include "claviger.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{/* Labels of an object: what all have in common. Its component it says itself. */}}
{{- define "claviger.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
app.kubernetes.io/name: {{ include "claviger.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "claviger.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "claviger.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "claviger.image" -}}
{{- .Values.image.repository -}}:{{- .Values.image.tag | default .Chart.AppVersion -}}
{{- with .Values.image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{- define "claviger.claim" -}}
{{- .Values.database.embedded.existingClaim | default (include "claviger.fullname" .) -}}
{{- end }}

{{/* How long a stop may take at most: the pause before it, the drain, 12 s for changes that have begun, 5 s to send the
     last telemetry. */}}
{{- define "claviger.stopSeconds" -}}
{{- add .Values.drain.preStopSeconds .Values.drain.timeoutSeconds 12 5 -}}
{{- end }}
