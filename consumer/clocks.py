"""Of whose clock is trusted: a server's goes by what people and time servers set, a monotonic one by itself."""

import time


class ServerClock:
    """Notices that the clock of a server was set back, by this machine's, which nobody sets."""

    def __init__(self) -> None:
        self._ahead: float | None = None  # milliseconds, of the monotonic clock's own beginning

    def set_back_by(self, server_milliseconds: float) -> float:
        """By how many milliseconds it was set back since the last look; what a slow reply took is among them."""
        ahead = server_milliseconds - time.monotonic() * 1000
        before, self._ahead = self._ahead, ahead
        return 0.0 if before is None else max(0.0, before - ahead)
