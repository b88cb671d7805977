"""The admission webhook: a process of its own that injects pods as they are created."""
