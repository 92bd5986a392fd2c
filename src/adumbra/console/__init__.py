"""The console: pages for people over the use cases of service/, in the server's own process. Asks nothing of any other host."""
