{{/* Values that each make sense alone and do not together. All are told at once, with what would be right. */}}

{{- define "claviger.refuse" -}}
{{- $v := .Values -}}
{{- $wrong := list -}}
{{- $embedded := eq $v.database.engine "embedded" -}}

{{- if $embedded -}}
{{- if ne (int $v.replicas) 1 -}}
{{- $wrong = append $wrong (printf "replicas: %d pods cannot share the embedded database, which belongs to one process; write replicas: 1, or database.engine: postgresql" (int $v.replicas)) -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- $wrong = append $wrong "autoscaling.enabled: the embedded database belongs to one process, so there is nothing to scale; write false, or database.engine: postgresql" -}}
{{- end -}}
{{- if $v.podDisruptionBudget.enabled -}}
{{- $wrong = append $wrong "podDisruptionBudget.enabled: with the embedded database there is one pod, and a budget could only keep its node from being drained; write false, or database.engine: postgresql" -}}
{{- end -}}
{{- if $v.topologySpread.enabled -}}
{{- $wrong = append $wrong "topologySpread.enabled: with the embedded database there is one pod, which cannot be spread; write false, or database.engine: postgresql" -}}
{{- end -}}
{{- if eq $v.migrations.mode "job" -}}
{{- $wrong = append $wrong "migrations.mode: a Job cannot open the embedded database beside the service; write start, or database.engine: postgresql" -}}
{{- end -}}
{{- if $v.database.postgresql.urlSecret.name -}}
{{- $wrong = append $wrong "database.postgresql.urlSecret.name: is set, and database.engine is embedded; write database.engine: postgresql, or leave the Secret out" -}}
{{- end -}}
{{- else -}}
{{- if not $v.database.postgresql.urlSecret.name -}}
{{- $wrong = append $wrong "database.postgresql.urlSecret.name: is missing; name an existing Secret that holds postgres://USER:PASSWORD@HOST/DATABASE" -}}
{{- end -}}
{{- if not $v.rootSecrets.secretName -}}
{{- $wrong = append $wrong "rootSecrets.secretName: is missing; name an existing Secret whose keys are root secrets, each named by one character (openssl rand -hex 32 makes one)" -}}
{{- end -}}
{{- if $v.database.embedded.existingClaim -}}
{{- $wrong = append $wrong "database.embedded.existingClaim: is set, and database.engine is postgresql; write database.engine: embedded, or leave the claim out" -}}
{{- end -}}
{{- if and $v.podDisruptionBudget.enabled (not $v.autoscaling.enabled) (eq (int $v.replicas) 1) -}}
{{- $wrong = append $wrong "podDisruptionBudget.enabled: a budget keeps nothing up where there is one pod; write replicas: 2 or more, or false" -}}
{{- end -}}
{{- if and $v.autoscaling.enabled (ne (int $v.replicas) 1) -}}
{{- $wrong = append $wrong (printf "replicas: is %d, and autoscaling.enabled decides how many there are; leave replicas out and write autoscaling.minReplicas" (int $v.replicas)) -}}
{{- end -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- $wrong = append $wrong (printf "autoscaling.minReplicas: %d is more than autoscaling.maxReplicas, %d; write the smaller number first" (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and (ne $v.migrations.mode "job") $v.migrations.job.urlSecret.name -}}
{{- $wrong = append $wrong "migrations.job.urlSecret.name: is set, and there is no Job; write migrations.mode: job, or leave the Secret out" -}}
{{- end -}}

{{- if and $embedded $v.bootstrap.secretName (not $v.rootSecrets.secretName) -}}
{{- $wrong = append $wrong "bootstrap.secretName: is set, and its key string was made under a root secret that this set-up would not have; name that in rootSecrets.secretName, or leave the Secret out" -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.secretName) -}}
{{- $wrong = append $wrong "tls.secretName: is missing; name an existing Secret with a certificate and its private key, or write tls.enabled: false" -}}
{{- end -}}
{{- if and $v.tls.secretName (not $v.tls.enabled) -}}
{{- $wrong = append $wrong "tls.secretName: is set, and TLS is off; write tls.enabled: true, or leave the Secret out" -}}
{{- end -}}
{{- if and (eq $v.plaintext "loopback") (not $v.tls.enabled) -}}
{{- $wrong = append $wrong "plaintext: with loopback and without TLS nobody outside the pod could call; write tls.enabled: true, or plaintext: anywhere if key strings may cross the cluster's network in clear" -}}
{{- end -}}

{{- with $v.terminationGracePeriodSeconds -}}
{{- if lt (int .) (int (include "claviger.stopSeconds" $)) -}}
{{- $wrong = append $wrong (printf "terminationGracePeriodSeconds: %d is too short for a stop that may take %d s before the pause, the drain and 12 s for changes that have begun, and 5 s for telemetry; write %s or more, or leave it out" (int .) (int (include "claviger.stopSeconds" $)) (include "claviger.stopSeconds" $)) -}}
{{- end -}}
{{- end -}}

{{- with $v.telemetry.endpoint -}}
{{- if not (regexMatch "^https?://[^/]" .) -}}
{{- $wrong = append $wrong (printf "telemetry.endpoint: %s is no address of a collector; write it like http://collector.monitoring:4317" .) -}}
{{- else if not (regexMatch "^https?://[A-Za-z0-9._:\\[\\]-]+/?$" .) -}}
{{- $wrong = append $wrong "telemetry.endpoint: holds a user or a path, and OTLP over gRPC has neither; write it like http://collector.monitoring:4317, and headers by extraEnv from a Secret" -}}
{{- end -}}
{{- end -}}

{{- if and $v.grpcRoute.enabled (not $v.grpcRoute.parentRefs) -}}
{{- $wrong = append $wrong "grpcRoute.parentRefs: is empty; name the gateway, as in [{name: GATEWAY, namespace: NAMESPACE}]" -}}
{{- end -}}
{{- if and $v.networkPolicy.egress.enabled (not $v.networkPolicy.enabled) -}}
{{- $wrong = append $wrong "networkPolicy.egress.enabled: has no effect without the policy; write networkPolicy.enabled: true" -}}
{{- end -}}

{{- range $v.extraEnv -}}
{{- if hasPrefix "CLAVIGER_" .name -}}
{{- $wrong = append $wrong (printf "extraEnv: %s is a setting of the service; write it as a value of its own (README.md has the table)" .name) -}}
{{- else if and $v.telemetry.endpoint (has .name (list "OTEL_EXPORTER_OTLP_ENDPOINT" "OTEL_SERVICE_NAME" "OTEL_RESOURCE_ATTRIBUTES" "OTEL_TRACES_SAMPLER" "OTEL_TRACES_SAMPLER_ARG" "OTEL_METRIC_EXPORT_INTERVAL")) -}}
{{- $wrong = append $wrong (printf "extraEnv: %s is set from the values under telemetry; write it there" .name) -}}
{{- else if hasPrefix "K8S_" .name -}}
{{- $wrong = append $wrong (printf "extraEnv: %s is a name that this chart keeps for itself; choose another" .name) -}}
{{- end -}}
{{- end -}}

{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "claviger.fullname" .)) -}}
{{- $wrong = append $wrong (printf "fullnameOverride: is missing; the name that release and chart make, %s, is none for a Service, which begins with a letter and has lower-case letters, digits and dashes" (include "claviger.fullname" .)) -}}
{{- end -}}

{{- if $wrong -}}
{{- fail (printf "\n%s:\n  %s\n" (ternary "one value makes no sense" (printf "%d values make no sense" (len $wrong)) (eq (len $wrong) 1)) (join "\n  " $wrong)) -}}
{{- end -}}
{{- end }}
