"""Who owns the runs of a store, by the API server: gather (I/O), extract and relate (pure), observe."""
