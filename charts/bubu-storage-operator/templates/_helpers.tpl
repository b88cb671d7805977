{{/* Names. Objects are called by namePrefix, not by the release: messages and documents name them. */}}
{{- define "bubu.controller" -}}{{ .Values.namePrefix }}-controller{{- end }}
{{- define "bubu.webhook" -}}{{ .Values.namePrefix }}-webhook{{- end }}

{{/* Both are constants of the operator. */}}
{{- define "bubu.lease" -}}bubu-storage-controller{{- end }}
{{- define "bubu.authoritySecret" -}}bubu-storage-webhook-ca{{- end }}

{{/* Secret with the webhook's certificate, where it does not come from the built-in authority. */}}
{{- define "bubu.tlsSecret" -}}
{{- if eq .Values.webhook.certificates.mode "secret" -}}
{{ .Values.webhook.certificates.secret.name }}
{{- else -}}
{{ include "bubu.webhook" . }}-tls
{{- end -}}
{{- end }}

{{/* Labels that a selector may use: they never change. Call with (dict "root" $ "component" "webhook"). */}}
{{- define "bubu.selectorLabels" -}}
app.kubernetes.io/name: bubu-storage-operator
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object. Call with (dict "root" $ "component" "webhook"), and "more" for those that win over commonLabels. */}}
{{- define "bubu.labels" -}}
{{ include "bubu.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with merge (dict) (.more | default dict) (.root.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of pods: without the chart's version, which alone must not roll anything. "more" as above. */}}
{{- define "bubu.podLabels" -}}
{{ include "bubu.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with merge (dict) (.more | default dict) (.root.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The one image of all roles. */}}
{{- define "bubu.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Start of every rendering: what the schema cannot say. */}}
{{- define "bubu.check" -}}
{{- $certificates := .Values.webhook.certificates -}}
{{- if and (eq $certificates.mode "secret") (not $certificates.secret.name) -}}
{{- fail "webhook.certificates.mode is secret: name the Secret of type kubernetes.io/tls in webhook.certificates.secret.name" -}}
{{- end -}}
{{- if and $certificates.caBundle (ne $certificates.mode "secret") -}}
{{- fail (printf "webhook.certificates.caBundle is for mode secret; with mode %s it is written by %s" $certificates.mode (ternary "the controller" "cert-manager" (eq $certificates.mode "builtin"))) -}}
{{- end -}}
{{- if and (eq $certificates.mode "certManager") (not $certificates.certManager.createSelfSignedIssuer) (not $certificates.certManager.issuerRef.name) -}}
{{- fail "webhook.certificates.mode is certManager: name an issuer in webhook.certificates.certManager.issuerRef.name, or set createSelfSignedIssuer" -}}
{{- end -}}
{{- if and .Values.webhook.hostNetwork (eq (int .Values.webhook.port) 10250) -}}
{{- fail "webhook.hostNetwork: port 10250 of every node is the kubelet's; choose another webhook.port" -}}
{{- end -}}
{{- if eq (int .Values.webhook.port) (int .Values.webhook.metricsPort) -}}
{{- fail "webhook.port and webhook.metricsPort must be two different ports" -}}
{{- end -}}
{{- $scope := .Values.scopedNamespace -}}
{{- if $scope -}}
{{- if eq $scope .Release.Namespace -}}
{{- fail (printf "scopedNamespace: %s is the operator's own namespace, whose pods are never injected; install the release into another one" $scope) -}}
{{- end -}}
{{- if has $scope (list "kube-system" "kube-public" "kube-node-lease") -}}
{{- fail (printf "scopedNamespace: %s is one of the cluster's own, whose pods are never injected" $scope) -}}
{{- end -}}
{{- if .Values.webhook.excludedNamespaces -}}
{{- fail "scopedNamespace means that one namespace alone; empty webhook.excludedNamespaces" -}}
{{- end -}}
{{- if eq .Values.tenantSecrets.mode "cluster" -}}
{{- fail "scopedNamespace and tenantSecrets.mode cluster contradict each other: use mode namespaces" -}}
{{- end -}}
{{- range concat .Values.tenantSecrets.namespaces .Values.tenantJobs.namespaces -}}
{{- if ne . $scope -}}
{{- fail (printf "scopedNamespace is %s: tenantSecrets.namespaces and tenantJobs.namespaces may name no other namespace than that one, not %s" $scope .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tenantSecrets.namespaces (ne .Values.tenantSecrets.mode "namespaces") -}}
{{- fail (printf "tenantSecrets.namespaces is for mode namespaces, and the mode is %s: empty the list, or change the mode" .Values.tenantSecrets.mode) -}}
{{- end -}}
{{- if and .Values.tenantJobs.namespaces (not .Values.controller.jobs.enabled) -}}
{{- fail "tenantJobs.namespaces gives the right to start Jobs, and controller.jobs.enabled is false: empty the list, or enable Jobs" -}}
{{- end -}}
{{- end }}

{{/* Fields that pods of both Deployments share. Call with (dict "root" $ "component" C "values" .Values.C). */}}
{{- define "bubu.podSettings" -}}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- with .values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "bubu.selectorLabels" . | nindent 8 }}
  {{- end }}
{{- end }}

{{/* Where pods of hooks run: on the controller's nodes, but not kept away from other pods, for the full ones will do, too. */}}
{{- define "bubu.placement" -}}
{{- with .Values.controller -}}
{{- dict "nodeSelector" .nodeSelector "tolerations" .tolerations "priorityClassName" .priorityClassName "affinity" (pick (.affinity | default dict) "nodeAffinity") | toYaml -}}
{{- end -}}
{{- end }}

{{/* A binding. Call with (dict "root" $ "kind" "RoleBinding" "name" N "namespace" NS "component" C "role" R "roleKind" K "account" A). */}}
{{- define "bubu.binding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "bubu.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .roleKind }}
  name: {{ .role }}
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}

{{/* NetworkPolicy rules that both roles have. */}}
{{- define "bubu.metricsIngress" -}}
# Metrics and health; the kubelet is never kept out.
- ports:
    - port: {{ .port }}
  from:
    {{- with .root.Values.networkPolicy.metricsFrom }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    - namespaceSelector: {}
    {{- end }}
    - podSelector:
        matchLabels:
          app.kubernetes.io/name: bubu-storage-operator
          app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "bubu.dnsEgress" -}}
# 5353: where OpenShift's DNS pods listen. Policies see the pods' port, not the Service's.
- ports:
    {{- range list 53 5353 }}
    - port: {{ . }}
      protocol: UDP
    - port: {{ . }}
      protocol: TCP
    {{- end }}
{{- end }}

{{- define "bubu.apiServerEgress" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - port: {{ . }}
    {{- end }}
{{- end }}
