"""What was answered, and what it was an answer to, as far as Redis still has it."""

from collections.abc import Iterator
from typing import Any

from redis import Redis

from ..schemas import Abstract, AbstractClassified, AbstreamError, Malformed, Streams
from ..schemas.streams import LANES, from_fields, submitted_from_fields

_PAGE = 512


class Past:
    """Looks back into the streams of one namespace."""

    def __init__(self, redis: Redis, streams: Streams) -> None:
        self._redis = redis
        self._streams = streams

    def prediction(self, event_id: str) -> AbstractClassified:
        """The newest prediction of this id, or of the submitted abstract of this id.

        Raises:
            AbstreamError: there is none.
        """
        for prediction in self._newest_first():
            if event_id in (prediction.id, prediction.causationid):
                return prediction
        raise AbstreamError(
            f"there is no prediction {event_id}, and none for an abstract with that id: "
            "it was not answered, or its prediction is no longer kept (--keep-predictions-days)"
        )

    def predictions(self, since: str) -> Iterator[AbstractClassified]:
        """Predictions from an entry id on, oldest first."""
        entries = self._page(since, forward=True)
        while entries:
            yield from _classified(entries)
            entries = self._page(f"({entries[-1][0].decode()}", forward=True)

    def abstract(self, prediction: AbstractClassified) -> Abstract | None:
        """The submitted abstract; None where its entry was trimmed, as answered ones are."""
        entry_id = prediction.data.input.entry_id
        for lane in LANES:
            entries: Any = self._redis.xrange(self._streams.lane(lane), entry_id, entry_id)
            for found, fields in entries:
                try:
                    event = submitted_from_fields(lane, found.decode(), fields)
                except Malformed:
                    continue
                if event.id == prediction.causationid:
                    return Abstract(title=event.title, abstract=event.abstract)
        return None

    def _newest_first(self) -> Iterator[AbstractClassified]:
        entries = self._page("+", forward=False)
        while entries:
            yield from _classified(entries)
            entries = self._page(f"({entries[-1][0].decode()}", forward=False)

    def _page(self, at: str, *, forward: bool) -> Any:  # redis-py's own types are the unions of all protocols' replies
        if forward:
            return self._redis.xrange(self._streams.predictions, at, "+", count=_PAGE)
        return self._redis.xrevrange(self._streams.predictions, at, "-", count=_PAGE)


def _classified(entries: Any) -> Iterator[AbstractClassified]:
    for _, fields in entries:
        try:
            event = from_fields(fields)
        except Malformed:
            continue
        if isinstance(event, AbstractClassified):
            yield event
