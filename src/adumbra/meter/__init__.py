"""Packets to per-VM intervals: whose they are, what connections they make, what each interval holds. Opens nothing."""
