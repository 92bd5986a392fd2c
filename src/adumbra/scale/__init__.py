"""The live network beside its shadow: real machines' counters as intervals, and predicted use scored against measured."""
