"""The report of a back-test as one page that needs nothing from outside. Draws what was found; computes no score."""
