"""The Grafana dashboard as code, and what provisions it."""
