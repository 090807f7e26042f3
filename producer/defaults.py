"""What a client does unless it is told otherwise; to know it, no library need be imported."""

DEFAULT_URL = "redis://localhost:6379/0"
# Entries of one lane that may wait for an answer: with abstracts of usual size about 2 GB, two hours' work at 150/s.
MAX_BACKLOG = 1_000_000
