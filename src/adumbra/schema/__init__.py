"""The nouns: what a user declares and what travels between stages. No I/O, no clock, nothing above."""
