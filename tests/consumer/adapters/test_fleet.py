"""What workers announce to the fleet is kept for as long as it matters, and not for ever."""

from abstream.consumer.adapters import fleet
from abstream.consumer.adapters.fleet import Fleet
from abstream.consumer.metrics import Metrics
from abstream.schemas import AdapterUpdated
from abstream.schemas.announced import Announced
from abstream.schemas.events import AdapterAnswer
from abstream.schemas.streams import from_fields
from abstream.training.release import describe


async def test_only_the_latest_announcements_are_kept(redis, streams, make_adapter, monkeypatch):
    monkeypatch.setattr(fleet, "KEEP_ANSWERS", 10)
    update = describe(make_adapter(), None, "activate")
    announced = Announced("1-0", AdapterUpdated(id="1", source="test", data=update))
    teller = Fleet(redis, streams, Metrics("test"))

    for number in range(300):
        answer = AdapterAnswer(
            worker=f"worker-{number}", name="a", version="1", digest=update.digest, load_ms=1, switch_ms=1
        )
        await teller.activated(announced, answer)

    kept = [from_fields(fields).data.worker for _, fields in await redis.xrange(streams.output("fleet"))]
    assert 10 <= len(kept) <= 200, "Redis removes whole nodes of a stream, a hundred entries each"
    assert kept == [f"worker-{number}" for number in range(300 - len(kept), 300)]
