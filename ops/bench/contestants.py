"""The contestants of ``abstream bench stream``: each publishes one result for every entry of a stream, in one process.

All read the interactive lane as a member of its group, 256 entries at a time at most.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any
from zlib import crc32

from redis.asyncio import Redis

from ... import __version__
from ...consumer.answers import answer
from ...consumer.config import WorkerConfig
from ...consumer.engine import Classified, Engine, LabelLogits, ServedModel, Tokens
from ...consumer.engine.fake import FakeEngine
from ...consumer.memory import settle_memory
from ...consumer.metrics import Metrics
from ...consumer.scripts import script
from ...consumer.service import serve
from ...consumer.shards import Shard
from ...consumer.stages import Delivery, Inferred, Job
from ...producer.connection import connect
from ...schemas import Abstract, AbstractSubmitted, Event, Streams, Submission, Text
from ...schemas.streams import DEDUPE_WINDOW_SECONDS, GROUP, to_fields

BATCH = 256  # as the worker reads when its engine is as quick as here
TEXT_CHARACTERS = 1_450
TEXT_TOKENS = 208  # about seven characters each
MOST_TOKENS = 1 << 20  # no limit: an engine that costs nothing has no reason to share batches out by length


@dataclass(frozen=True)
class Contestant:
    """``answer`` publishes a result for each of the given number of entries of a lane, and returns."""

    answer: Callable[[str, Streams, int], Coroutine[None, None, None]]
    to_fields: Callable[[Event], dict[str, bytes]] = to_fields  # how it expects an event in an entry


class InstantEngine:
    """Answers instantly, as the fake engine might: all that a worker then costs is its plumbing.

    A checksum of the title picks one of the tokenized texts, and so one of the answers, that were prepared.
    """

    def __init__(self) -> None:
        fake = FakeEngine()
        self.model: ServedModel = fake.model
        some = [fake.encode(Abstract(abstract=str(number))) for number in range(BATCH)]
        self._answers: list[LabelLogits] = fake.classify(some).logits
        self._tokens = [Tokens((number,) * TEXT_TOKENS, slice(0, TEXT_TOKENS), False) for number in range(BATCH)]

    def encode(self, abstract: Text) -> Tokens:
        return self._tokens[crc32((abstract.title or "").encode()) % BATCH]

    def classify(self, batch: Sequence[Tokens]) -> Classified:
        return Classified(self.model, [self._answers[tokens.ids[0]] for tokens in batch])


async def worker(url: str, streams: Streams, _entries: int) -> None:
    """The whole worker: lease, validation, scoring, dedupe, metrics, logs. Leaves when nothing is left to read."""
    await work(url, streams, InstantEngine(), burst=True)


async def worker_with_fake_engine(url: str, streams: Streams, _entries: int) -> None:
    """``abstream work --engine fake --burst``, with its default knobs."""
    await work(url, streams, FakeEngine(), burst=True, max_batch_tokens=8_192)


async def work(url: str, streams: Streams, engine: Engine, *, burst: bool, max_batch_tokens: int = MOST_TOKENS) -> None:
    """A worker's life in this process; one that stays follows the adapters too."""
    settle_memory()
    redis = connect(url)
    config = WorkerConfig(name="worker", burst=burst, read_count=BATCH, max_batch_tokens=max_batch_tokens)
    await serve(
        Shard(redis, streams), [Shard(redis, streams)], config, lambda _: engine, Metrics(__version__), follow=not burst
    )
    await redis.aclose()


async def floor(url: str, streams: Streams, _entries: int) -> None:
    """The least a client can do with redis-py and hiredis as they come: no parsing, prepared results.

    Commits by the worker's own script, and reads the next batch in the same round trip.
    """
    redis, lane, results = Redis.from_url(url, protocol=2), streams.lane("interactive"), example_results()
    keys = [lane, streams.lane("bulk"), streams.predictions, streams.refusals, *streams.seen(time.time())]
    new: dict[Any, Any] = {lane: ">"}
    sha = await redis.script_load(script(redis, "commit").script)
    replies: Any = await redis.xreadgroup(GROUP, "floor", new, count=BATCH)
    while replies:
        answers = [
            value
            for (entry_id, _), result in zip(replies[0][1], results, strict=False)
            for value in (1, entry_id, 3, entry_id, result)
        ]
        async with redis.pipeline(transaction=False) as pipe:
            pipe.evalsha(sha, len(keys), *keys, GROUP, 2 * DEDUPE_WINDOW_SECONDS, *answers)
            pipe.xreadgroup(GROUP, "floor", new, count=BATCH)
            _, replies = await pipe.execute()
    await redis.aclose()


async def faststream(url: str, streams: Streams, entries: int, *, pipelined: bool = False) -> None:
    """FastStream's batch subscriber: validates, and publishes prepared results; no lease, dedupe or metrics.

    Args:
        pipelined: the results of a batch go out in one pipeline, which FastStream's users must ask for.
    """
    from faststream.redis import RedisBroker, StreamSub

    silent: Any = None
    broker: Any = RedisBroker(url, logger=silent)
    redis, results = connect(url), example_results()
    lane = streams.lane("interactive")
    left, done = entries, asyncio.Event()

    async def answer(events: list[AbstractSubmitted]) -> None:
        nonlocal left
        pipe = redis.pipeline(transaction=False) if pipelined else None
        for _, result in zip(events, results, strict=False):
            await broker.publish(result, stream=streams.predictions, pipeline=pipe)
        if pipe:
            await pipe.execute()
        left -= len(events)
        if left <= 0:
            done.set()

    batches = StreamSub(lane, group=GROUP, consumer="faststream", batch=True, max_records=BATCH, last_id=">")
    broker.subscriber(stream=batches)(answer)
    async with broker:
        await broker.start()
        await done.wait()
    await redis.aclose()


def example_abstract(number: int) -> AbstractSubmitted:
    """An invented one, with its envelope about as long as PubMed's are: 1.7 kB."""
    sample = sample_text()
    begin = number % (len(sample) - TEXT_CHARACTERS)
    data = Abstract(title=f"Abstract {number} of a bench", abstract=sample[begin : begin + TEXT_CHARACTERS])
    return AbstractSubmitted(id=f"bench-{number}", source="urn:abstream:bench", data=data)


@cache
def sample_text() -> str:
    """All texts of the bundled sample, in one."""
    lines = files("abstream.ops.sample").joinpath("train.jsonl").read_text(encoding="utf-8").splitlines()
    return " ".join(json.loads(line)["text"] for line in lines)


def example_results() -> list[bytes]:
    """What the worker publishes for a batch, long answers and short."""
    engine = InstantEngine()
    jobs = [_job(example_abstract(number), engine) for number in range(BATCH)]
    classified = engine.classify([job.tokens for job in jobs])
    answered = answer(Inferred(jobs, classified, 0.001, time.time() * 1000), "worker")
    return [one.event for one in answered]


def _job(event: AbstractSubmitted, engine: Engine) -> Job:
    delivery = Delivery("interactive", f"{time.time_ns()}-0", None, 1, ("worker",))
    return Job(delivery, Submission.of(event), engine.encode(event.data), engine)


def to_envelope(event: Event) -> dict[str, bytes]:
    """The entry that FastStream's own publisher would make of an event."""
    return {"__data__": _envelope() + event.to_json()}


@cache
def _envelope() -> bytes:
    from faststream.redis.parser import BinaryMessageFormatV1

    headers = {"content-type": "application/json"}
    empty = BinaryMessageFormatV1.encode(message=b"", reply_to=None, headers=headers, correlation_id="bench")
    envelope: bytes = asyncio.run(empty)
    return envelope


CONTESTANTS = {
    "floor": Contestant(floor),
    "worker": Contestant(worker),
    "FastStream": Contestant(faststream, to_envelope),
    "FastStream, pipelined": Contestant(partial(faststream, pipelined=True), to_envelope),
    "worker, fake engine": Contestant(worker_with_fake_engine),
}
