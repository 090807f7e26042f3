"""Publishing the records of a request."""

from ...schemas import Lane, Malformed
from ..formats import Broken, Record
from ..shipping import Published
from .door import Door


class Sender:
    """Publishes the records of one request, and collects which were accepted and which are broken."""

    def __init__(self, door: Door, source: str, lane: Lane) -> None:
        self._door = door
        self._source = source
        self._lane: Lane = lane
        self.accepted: list[Published] = []
        self.broken: list[Broken] = []

    async def send(self, record: Record) -> Published:
        """Send one.

        Raises:
            Malformed: it is larger than workers accept.
            BacklogFull: too many wait already.
            Unavailable: Redis is out of reach.
        """
        return (await self._publish([record]))[0]

    async def send_part(self, part: list[Record | Broken]) -> None:
        """Send the valid records; raises as ``send``, except that records that are too large count as broken."""
        self.broken += [one for one in part if isinstance(one, Broken)]
        sound = [one for one in part if isinstance(one, Record)]
        if not sound:
            return
        try:
            await self._publish(sound)
        except Malformed as problem:  # one is too large, and so none was sent
            if len(sound) == 1:
                self.broken.append(Broken(f"id {sound[0].id}", problem.message))
                return
            for record in sound:
                await self.send_part([record])

    async def _publish(self, sound: list[Record]) -> list[Published]:
        publisher = self._door.publisher(self._source)
        published = await publisher.publish_many(((one.id, one.abstract) for one in sound), lane=self._lane)
        self.accepted += published
        self._door.measurements.taken(self._lane, len(published))
        await self._door.index.submitted(self._source, published)
        return published
