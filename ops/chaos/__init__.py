"""Everything that goes wrong, on purpose: real servers and real workers are killed, frozen and cut off, and counted."""
