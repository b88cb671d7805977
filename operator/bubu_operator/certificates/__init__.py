"""The built-in authority of the webhook's certificates: issuing, and when to rotate; no Kubernetes here."""
