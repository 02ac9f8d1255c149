"""The study: what its file may hold, what is derived from that, and how it is read."""
