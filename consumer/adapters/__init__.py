"""Which adapter is live, and how it came to be: watch -> store -> probes -> registry -> fleet."""
