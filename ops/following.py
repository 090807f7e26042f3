"""A stream as JSON lines on stdout."""

import re
import sys
from datetime import datetime, timezone

import click

from ..producer import Subscriber
from ..producer.subscriber import NOW
from ..schemas import Shards
from ..schemas.streams import EVENT_FIELD, Output

_ENTRY_ID = "[0-9]{1,19}(-[0-9]{1,19})?"


async def follow(url: str, shards: Shards, output: Output, since: str | None, until_idle: float | None) -> None:
    """Print every event after ``since``, as it stands in the stream."""
    begin = moment(since) if since and since != NOW else NOW
    async with Subscriber(url, namespace=shards.namespace, shards=shards.count) as subscriber:
        async for entry_id, fields in subscriber.entries(output, begin, until_idle=until_idle):
            try:
                sys.stdout.write(fields[EVENT_FIELD.encode()].decode() + "\n")
                sys.stdout.flush()
            except (KeyError, UnicodeDecodeError):
                print(f"entry {entry_id} is no event: skipped", file=sys.stderr)


def moment(since: str) -> str | datetime:
    """What ``--since`` means: an entry id, one of each shard, or a time.

    Raises:
        click.BadParameter: it is neither.
    """
    if re.fullmatch(f"{_ENTRY_ID}(,{_ENTRY_ID})*", since):
        return since
    try:
        time = datetime.fromisoformat(since.replace("Z", "+00:00"))
    except ValueError:
        said = f"{since!r} is neither an entry id such as 1700000000000-0 nor an ISO 8601 time"
        raise click.BadParameter(said, param_hint="--since") from None
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)
