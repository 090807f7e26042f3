"""Resumes an interrupted publishing of files: nothing that Redis confirmed is sent again.

What is known of a run lies in Redis, beside what was published: its source and its name, under the digest of its files
and of how they were published. Redis remembers every call of a run, in the script that adds its entries.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from uuid import uuid4

from redis.exceptions import OutOfMemoryError

from ..producer.connection import connect
from ..producer.shipping import RESUMABLE_SECONDS
from ..schemas import Streams

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Run:
    """One publishing of files.

    Attributes:
        name: what its calls are remembered by; None where it cannot go on, since its files can be read only once.
    """

    name: str | None
    source: str

    @classmethod
    def new(cls, source: str | None, *, resumable: bool) -> "Run":
        """A new run, with a source of its own where none is given."""
        return cls(str(uuid4()) if resumable else None, source or f"urn:uuid:{uuid4()}")


async def begin(
    url: str, streams: Streams, paths: Sequence[str], how: Iterable[str | None], source: str | None, *, resume: bool
) -> Run:
    """With ``resume``, the last run of these files; otherwise, or where none is known, a new one.

    Args:
        url: of Redis.
        streams: beside which it is noted.
        paths: of the files.
        how: what else must be the same, for a run to be the same.
    """
    digest = _digest(paths, [*how, source])
    if digest is None:
        return Run.new(source, resumable=False)
    key = streams.run(digest)
    async with connect(url, streams) as redis:
        known = await redis.get(key) if resume else None
        if resume and not known:
            print("nothing to resume is known of these files: publishing from their beginning", file=sys.stderr)
        run = Run(**json.loads(known)) if known else Run.new(source, resumable=True)
        try:
            await redis.set(key, json.dumps(asdict(run)), ex=RESUMABLE_SECONDS)
        except OutOfMemoryError:
            print("Redis has no memory to note this run: it cannot be resumed", file=sys.stderr)
    return run


def _digest(paths: Sequence[str], how: Sequence[str | None]) -> str | None:
    """A digest of the files' contents in order, whatever their names; None where one is a pipe or missing."""
    if not all(Path(path).is_file() for path in paths):
        return None
    whole = hashlib.sha256(json.dumps(how).encode())
    for path in paths:
        one = hashlib.sha256()
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                one.update(chunk)
        whole.update(one.digest())
    return whole.hexdigest()[:32]
