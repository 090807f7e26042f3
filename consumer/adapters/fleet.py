"""What this worker says to the fleet about an adapter update."""

from redis.asyncio import Redis

from ...schemas import AdapterActivated, AdapterRejected, Streams
from ...schemas.events import AdapterAnswer
from ...schemas.streams import to_fields
from ..answers import follows
from ..metrics import Metrics
from ..patience import until_available
from .history import Announced


class Fleet:
    """Publishes answers. Stateless."""

    def __init__(self, redis: Redis, streams: Streams, metrics: Metrics) -> None:
        self._redis = redis
        self._stream = streams.output("fleet")
        self._metrics = metrics

    async def activated(self, announced: Announced, answer: AdapterAnswer) -> None:
        """The announced adapter is live here."""
        await self._send(AdapterActivated(data=answer, **follows(announced.entry_id, announced.event, answer.worker)))

    async def rejected(self, announced: Announced, answer: AdapterAnswer) -> None:
        """The announced adapter is not served here, for ``answer.reason``."""
        await self._send(AdapterRejected(data=answer, **follows(announced.entry_id, announced.event, answer.worker)))

    async def _send(self, event: AdapterActivated | AdapterRejected) -> None:
        # Repeated after a lost reply, it stands twice under one id and says the same.
        fields = to_fields(event)
        await until_available(lambda: self._redis.xadd(self._stream, dict(fields.items())), self._metrics)
