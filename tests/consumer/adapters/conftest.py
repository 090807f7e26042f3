"""An adapter as it is announced, a cache, a store to release into, and what the fleet announced."""

from pathlib import Path

import pytest
from abstream.consumer.adapters.cache import Cache
from abstream.schemas import VerifiedAdapter
from abstream.schemas.events import AdapterUpdate
from abstream.schemas.streams import from_fields
from abstream.training.release import describe


@pytest.fixture
def adapter(make_adapter) -> VerifiedAdapter:
    return make_adapter()


@pytest.fixture
def update(adapter) -> AdapterUpdate:
    """The update that announces ``adapter``."""
    return describe(adapter, None, "activate")


@pytest.fixture
def cache(tmp_path) -> Cache:
    return Cache(tmp_path / "cache", max_bytes=1_000_000, pauses_seconds=())


@pytest.fixture
def store(tmp_path) -> Path:
    return tmp_path / "store"


async def fleet_events(redis, streams, kind: type = object) -> list:
    """The events of this kind that workers announced to the fleet, oldest first."""
    events = [from_fields(fields) for _, fields in await redis.xrange(streams.output("fleet"))]
    return [event for event in events if isinstance(event, kind)]
