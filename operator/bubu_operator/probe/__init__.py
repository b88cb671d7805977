"""What runs in the pod of a probe's Job, and how its result travels back; no Kubernetes, no Kopf."""
