"""Speed of the engine against what a user would run instead, on the same machine in the same run: ``make bench``."""
