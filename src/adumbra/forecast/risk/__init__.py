"""How often an allocation would be too small: one model of many VMs, of the expected share of steps short of a candidate size.

Knows no price and no dial; those are the profile stage's.
"""
