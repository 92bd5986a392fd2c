"""Ways of mirroring on Linux, one module each. The way in is `tap/mirror.py`."""
