"""A stream as JSON lines on stdout."""

import re
import sys
from datetime import datetime, timezone

from ..producer import Subscriber
from ..producer.subscriber import NOW
from ..schemas import AbstreamError, Shards
from ..schemas.streams import EVENT_FIELD, Output


async def follow(url: str, shards: Shards, output: Output, since: str | None, until_idle: float | None) -> None:
    """Print every event after ``since``, as it stands in the stream."""
    async with Subscriber(url, namespace=shards.namespace, shards=shards.count) as subscriber:
        async for entry_id, fields in subscriber.entries(output, moment(since), until_idle=until_idle):
            try:
                sys.stdout.write(fields[EVENT_FIELD.encode()].decode() + "\n")
                sys.stdout.flush()
            except (KeyError, UnicodeDecodeError):
                print(f"entry {entry_id} is no event: skipped", file=sys.stderr)


def moment(since: str | None) -> str | datetime:
    """What ``--since`` means: an entry id or a time; now by default.

    Raises:
        AbstreamError: it is neither.
    """
    if since is None or re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*|\$", since):
        return since or NOW
    try:
        moment = datetime.fromisoformat(since.replace("Z", "+00:00"))
    except ValueError:
        raise AbstreamError(
            f"--since {since!r} is neither an entry id such as 1700000000000-0 nor an ISO 8601 time"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
