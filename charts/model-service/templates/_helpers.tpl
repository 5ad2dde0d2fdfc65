{{- define "model-service.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "model-service.metadata" -}}
name: {{ .Release.Name }}
namespace: {{ .Release.Namespace }}
labels:
{{ include "model-service.labels" . | indent 2 }}
{{- end }}

{{- define "model-service.labels" -}}
{{ include "model-service.selector" . }}
app.kubernetes.io/part-of: task-backbone
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "model-service.image" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ required "image.tag or image.digest is needed" .tag }}
{{- end -}}
{{- end }}

{{- /* Whether pods need a token of their service account: for Key Vault, storage or Application Insights. */ -}}
{{- define "model-service.hasIdentity" -}}
{{- if .Values.serviceAccount.clientId }}true{{ end -}}
{{- end }}

{{- define "model-service.keySecret" -}}
{{- if .Values.backbone.keyVault.name -}}
name: {{ .Release.Name }}-backbone
key: {{ .Values.backbone.keyVault.secret | quote }}
{{- else -}}
name: {{ .Values.backbone.secret.name | quote }}
key: {{ .Values.backbone.secret.key | quote }}
{{- end -}}
{{- end }}

{{- /* The environment of what speaks to the backbone: the service, or the sidecar before it. */ -}}
{{- define "model-service.backboneEnv" -}}
- { name: BACKBONE_URL, value: {{ .Values.backbone.url | quote }} }
- name: BACKBONE_KEY
  valueFrom:
    secretKeyRef:
{{ include "model-service.keySecret" . | indent 6 }}
- { name: SERVICE_HOST, value: "0.0.0.0" }
- { name: PORT, value: {{ .Values.port | quote }} }
- { name: OTEL_SERVICE_NAME, value: {{ .Release.Name | quote }} }
{{- with .Values.cluster }}
- { name: SERVICE_CLUSTER, value: {{ . | quote }} }
{{- end }}
{{- end }}

{{- /* Probes and stop of what takes the tasks. The first probe asks every 2 s, for as long as loading may take. */ -}}
{{- define "model-service.life" -}}
{{- with .Values.probes.ready -}}
startupProbe:
  httpGet: { path: {{ . | quote }}, port: http }
  periodSeconds: 2
  failureThreshold: {{ div (add $.Values.probes.startupSeconds 1) 2 }}
readinessProbe:
  httpGet: { path: {{ . | quote }}, port: http }
  periodSeconds: 2
{{- else }}
startupProbe:
  tcpSocket: { port: http }
  periodSeconds: 2
  failureThreshold: {{ div (add $.Values.probes.startupSeconds 1) 2 }}
readinessProbe:
  tcpSocket: { port: http }
  periodSeconds: 2
{{- end }}
livenessProbe:
{{- with .Values.probes.live }}
  httpGet: { path: {{ . | quote }}, port: http }
{{- else }}
  tcpSocket: { port: http }
{{- end }}
  periodSeconds: 10
  failureThreshold: 6
# Requests are still on their way here when the pod is taken out of the service.
lifecycle:
  preStop:
    sleep: { seconds: 3 }
{{- end }}

{{- /* What the model itself needs, in a container of its own or before the sidecar. */ -}}
{{- define "model-service.model" -}}
image: {{ include "model-service.image" .Values.image | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.command }}
command: {{ toJson . }}
{{- end }}
{{- with .Values.args }}
args: {{ toJson . }}
{{- end }}
securityContext: {{ toJson .Values.securityContext }}
{{- $limits := .Values.resources.limits | default dict }}
{{- if .Values.gpu.count }}
{{- $limits = merge (dict "nvidia.com/gpu" .Values.gpu.count) $limits }}
{{- end }}
resources: {{ toJson (merge (dict "limits" $limits) .Values.resources) }}
volumeMounts:
  - { name: tmp, mountPath: /tmp }
{{- if ne .Values.cache.type "none" }}
  - { name: cache, mountPath: {{ .Values.cache.mountPath }} }
{{- end }}
{{- range .Values.blobs }}
  - { name: blob-{{ .name }}, mountPath: {{ .mountPath }}, readOnly: {{ .readOnly | default false }} }
{{- end }}
{{- end }}

{{- define "model-service.secretsMount" -}}
{{- if .Values.backbone.keyVault.name -}}
# The driver makes the secret while a pod mounts this.
- { name: backbone, mountPath: /run/secrets/backbone, readOnly: true }
{{- end }}
{{- end }}

{{- /* How the HPA may follow: up at once, down slowly or not at all. */ -}}
{{- define "model-service.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
{{- if eq .Values.scaling.scaleIn "drain" }}
  stabilizationWindowSeconds: {{ .Values.scaling.stabilizationSeconds }}
{{- else }}
{{- if or .Values.scaling.minReplicas (eq .Values.scaling.source "externalMetric") }}
{{- fail "scaling.scaleIn: idle takes replicas away by going to none, so it needs minReplicas: 0 and KEDA. Take drain." }}
{{- end }}
  # KEDA takes all away together, when no task is left.
  selectPolicy: Disabled
{{- end }}
{{- end }}

{{- /* What the schema cannot say: how values fit together. */ -}}
{{- define "model-service.check" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]{0,51}[a-z0-9])?$" .Release.Name) }}
{{- fail "The release's name becomes that of a Service: small letters, digits and hyphens, and a letter first." }}
{{- end }}
{{- range .Values.endpoints }}
{{- if not (hasPrefix (printf "%s/" $.Values.path) (printf "%s/" .)) }}
{{- fail (printf "endpoints: %s is not below path, %s, so the route would not take it here." . $.Values.path) }}
{{- end }}
{{- end }}
{{- if gt (int .Values.scaling.minReplicas) (int .Values.scaling.maxReplicas) }}
{{- fail "scaling.minReplicas is more than scaling.maxReplicas." }}
{{- end }}
{{- if and .Values.sidecar.enabled (eq (int .Values.port) (int .Values.sidecar.upstreamPort)) }}
{{- fail "port and sidecar.upstreamPort are one pod's: they have to differ." }}
{{- end }}
{{- $names := list }}
{{- if eq .Values.cache.type "claim" }}
{{- $names = list "cache" }}
{{- end }}
{{- range .Values.blobs }}
{{- if has .name $names }}
{{- fail (printf "blobs: the volume %s is there twice. The claim of the cache is called cache." .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- end }}
