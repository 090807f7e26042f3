"""Publishing the records of a request."""

from typing import Any

from ...schemas import Lane, Malformed, Unavailable
from ..formats import Broken, Record
from ..shipping import Published
from .door import Door
from .problems import Problem, problem_of


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
            Problem: too many wait already, or Redis is out of reach; it says which were taken, and which perhaps.
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
                self.broken.append(Broken(sound[0].position, problem.message))
                return
            for record in sound:
                await self.send_part([record])

    def outcome(self) -> dict[str, Any]:
        """Which were taken, and why others were not, as JSON."""
        return {
            "accepted": [one._asdict() for one in self.accepted],
            "problems": [{"position": one.position, "detail": one.reason} for one in self.broken],
        }

    async def _publish(self, sound: list[Record]) -> list[Published]:
        publisher = self._door.publisher(self._source)
        try:
            published = await publisher.publish_many(((one.id, one.abstract) for one in sound), lane=self._lane)
        except Unavailable as error:
            raise self._broken_off(error, sound) from error
        self.accepted += published
        self._door.measurements.taken(self._lane, len(published))
        await self._door.index.submitted(self._source, published)
        return published

    def _broken_off(self, error: Unavailable, sent: list[Record]) -> Problem:
        """The problem of an error after which nobody knows which of ``sent`` were taken.

        It names their ids: where the client gave none, only under the same ids it can send them again and not twice.
        """
        problem = problem_of(error)
        problem.detail += (
            " `accepted` lists the abstracts that were queued, and `unsure` the ids of those that may have been. "
            "Both are in the order of the request."
        )
        problem.members |= self.outcome() | {"unsure": [record.id for record in sent]}
        return problem
