"""Retention passes on stores that only a tenant's own pods reach: an agent in a Job, the engine at home."""
