"""A server's loops: taps and jobs as child processes, learning, upkeep, and who owns which network. Serves no request."""
