"""The version of this program. A fact only."""

__version__ = "0.1.0"
