"""Detecting that the clock of a server was set back. People and time servers set it; a monotonic clock, nobody."""

import time


class ServerClock:
    """Compares the clock of a server with this machine's monotonic clock."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # of the monotonic clock, in milliseconds

    def set_back_by(self, server_milliseconds: float) -> float:
        """By how many milliseconds it was set back since the last call. A slow reply counts too."""
        ahead = server_milliseconds - time.monotonic() * 1000
        before, self._ahead = self._ahead, ahead
        return 0.0 if before is None else max(0.0, before - ahead)
