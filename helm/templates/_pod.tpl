{{/* The pod of the service, the same in the StatefulSet and in the Deployment. */}}

{{- define "claviger.pod" -}}
metadata:
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  labels:
    {{- include "claviger.podLabels" (list . "server") | nindent 4 }}
spec:
  {{- include "claviger.podCommon" . | nindent 2 }}
  serviceAccountName: {{ include "claviger.serviceAccount" . }}
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds | default (include "claviger.stopSeconds" .) | int }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpread.enabled }}
  topologySpreadConstraints:
    {{- range .Values.topologySpread.topologyKeys }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: {{ $.Values.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "claviger.selector" $ | nindent 10 }}
      # Pods of a version that is going away do not count.
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  containers:
    - name: claviger
      image: {{ include "claviger.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      # The command line finds ./data/admin.key from here.
      workingDir: /var/lib/claviger
      env:
        {{- include "claviger.env" . | nindent 8 }}
      ports:
        - name: grpc
          containerPort: 50051
        - name: ops
          containerPort: 50052
      startupProbe:
        httpGet: {path: /livez, port: ops}
        periodSeconds: {{ .Values.probes.startup.periodSeconds }}
        failureThreshold: {{ .Values.probes.startup.failureThreshold }}
      readinessProbe:
        httpGet: {path: /readyz, port: ops}
        periodSeconds: {{ .Values.probes.readiness.periodSeconds }}
        failureThreshold: {{ .Values.probes.readiness.failureThreshold }}
      livenessProbe:
        httpGet: {path: /livez, port: ops}
        periodSeconds: {{ .Values.probes.liveness.periodSeconds }}
        failureThreshold: {{ .Values.probes.liveness.failureThreshold }}
      {{- if .Values.drain.preStopSeconds }}
      lifecycle:
        preStop:
          # The image has no program that could sleep.
          sleep: {seconds: {{ .Values.drain.preStopSeconds }}}
      {{- end }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.containerSecurityContext | nindent 8 }}
      {{- with include "claviger.mounts" . | trim }}
      volumeMounts:
        {{- . | nindent 8 }}
      {{- end }}
  {{- with include "claviger.volumes" . | trim }}
  volumes:
    {{- . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Labels of a pod. Takes the context and the component. The version is not among them where a selector is. */}}
{{- define "claviger.podLabels" -}}
{{- $component := index . 1 -}}
{{- with index . 0 -}}
{{- with omit .Values.podLabels "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" -}}
{{ toYaml . }}
{{ end -}}
app.kubernetes.io/name: {{ include "claviger.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ $component }}
{{- end -}}
{{- end }}

{{/* What every pod of this chart has: no token, no links, the restricted profile, the nodes to run on. */}}
{{- define "claviger.podCommon" -}}
automountServiceAccountToken: false
# Links would put names such as CLAVIGER_PORT into the environment.
enableServiceLinks: false
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Secrets are mounted for the group, which is the pod's fsGroup: the service refuses files that everybody can read. */}}
{{- define "claviger.volumes" -}}
{{- if eq .Values.database.engine "embedded" }}
- name: data
  persistentVolumeClaim:
    claimName: {{ include "claviger.claim" . }}
# SQLite sorts here what does not fit into memory.
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- end }}
{{- with .Values.rootSecrets.secretName }}
- name: root-secrets
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with .Values.bootstrap.secretName }}
- name: bootstrap
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    # Once it has done its work the Secret may go.
    optional: true
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret: {secretName: {{ .Values.tls.secretName }}, defaultMode: 0440}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "claviger.mounts" -}}
{{- if eq .Values.database.engine "embedded" }}
- name: data
  mountPath: /var/lib/claviger/data
- name: tmp
  mountPath: /tmp
{{- end }}
{{- if .Values.rootSecrets.secretName }}
- name: root-secrets
  mountPath: /etc/claviger/root-secrets
  readOnly: true
{{- end }}
{{- if .Values.bootstrap.secretName }}
- name: bootstrap
  mountPath: /etc/claviger/bootstrap
  readOnly: true
{{- end }}
{{- if .Values.tls.enabled }}
# The folder, not single files: only so does a renewed certificate arrive.
- name: tls
  mountPath: /etc/claviger/tls
  readOnly: true
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
