"""Which adapter is live, and how it gets there: watch -> store -> probes -> registry -> fleet."""
