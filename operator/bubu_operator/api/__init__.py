"""The Kubernetes API of the operator: models by version, and what is generated from them."""
