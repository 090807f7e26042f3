"""Defaults of the clients, in a module that imports no library."""

DEFAULT_URL = "redis://localhost:6379/0"
# Entries of one lane that may wait for an answer: about 2 GB with abstracts of usual size, or two hours at 150/s.
MAX_BACKLOG = 1_000_000
