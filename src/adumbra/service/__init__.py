"""The use cases, one module a noun, shared by the CLI and what comes beside it. They wire stages; they compute little."""
