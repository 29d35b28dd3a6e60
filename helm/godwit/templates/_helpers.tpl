{{- /* Name of every object: the release's, with the chart's name in it. */ -}}
{{- define "godwit.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "godwit.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "godwit.labels" -}}
{{ include "godwit.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "godwit.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* What the operator may do in a namespace that it looks after: nothing with Secrets. */ -}}
{{- define "godwit.rules" -}}
- apiGroups: [godwit.dev]
  resources: [postgresdatabases, databasemigrations, migrationruns, databasebackups, databaserestores]
  verbs: [get, list, watch, patch] # patch: finalizers
- apiGroups: [godwit.dev]
  resources:
    - postgresdatabases/status
    - databasemigrations/status
    - migrationruns/status
    - databasebackups/status
    - databaserestores/status
  verbs: [patch]
- apiGroups: [godwit.dev]
  resources: [migrationruns, databasebackups, databaserestores]
  verbs: [create, delete] # what people made by hand is theirs to delete
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get] # whether it is terminating
- apiGroups: [""]
  resources: [events]
  verbs: [list] # why a Job gets no pod
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
