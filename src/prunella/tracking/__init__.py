"""MLflow: runs, a journal while the server is away, the registry, serving."""
