"""The HTTP API: use cases of service/ as resources under /v1."""
