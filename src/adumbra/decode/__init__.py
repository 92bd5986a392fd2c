"""Bytes in, columns out: link, network and transport headers. Keeps no state between packets."""
