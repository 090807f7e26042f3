"""Fixtures that all tests share: a real Redis server, its stand-in, and workers to start and stop."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from abstream import Abstract, Publisher, Subscriber
from abstream.consumer.adapters.fleet import Fleet
from abstream.consumer.adapters.registry import Registry
from abstream.consumer.adapters.watch import Watch
from abstream.consumer.config import WorkerConfig
from abstream.consumer.engine import Engine
from abstream.consumer.engine.fake import BASE, FakeEngine
from abstream.consumer.metrics import Metrics
from abstream.consumer.shards import Shard, inlets
from abstream.consumer.sink import Outlet, Sink
from abstream.consumer.source import Source
from abstream.consumer.tasks import end
from abstream.consumer.worker import Worker
from abstream.ops.embedded import embedded_redis, start_server, url_of
from abstream.ops.settings import shipped_model
from abstream.producer.connection import connect
from abstream.schemas import Shards, Streams, VerifiedAdapter
from abstream.schemas.streams import LANES
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from .sealing import seal_for

PATIENCE_SECONDS = 30
PLAIN_LORA = '{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["o_proj"]}'


async def wait_until(condition: Callable[[], object], what: str = "it") -> None:
    """Return once ``condition()``, which may be a coroutine function, is true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        value = condition()
        if await value if asyncio.iscoroutine(value) else value:
            return
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s in vain for {what}"
        await asyncio.sleep(0.005)


def numbered(*ids: object) -> list[tuple[str, Abstract]]:
    """Abstracts with these ids, to be published."""
    return [(str(id_), Abstract(title=f"Abstract {id_}", abstract="")) for id_ in ids]


async def has_length(redis: Redis, stream: str, length: int) -> bool:
    return await redis.xlen(stream) == length


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a private, real Redis server."""
    with embedded_redis() as url:
        yield url


class PrivateRedis:
    """A Redis server that can be stopped, and started again with all its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = url_of(folder)
        self.start()

    def start(self) -> None:
        self._server = start_server(self.folder, "--appendonly", "yes", "--appendfsync", "always")

    def freeze(self) -> None:
        """Suspend the process, so that it answers nobody until it is stopped."""
        self._server.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        self._server.kill()
        self._server.wait()


@pytest.fixture
def private_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    server = PrivateRedis(tmp_path_factory.mktemp("r"))
    yield server
    server.stop()


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test uses."""
    return f"test-{uuid4().hex[:12]}"


@pytest.fixture
def streams(namespace: str) -> Streams:
    return Streams(namespace)


@pytest.fixture
async def redis(server: str) -> AsyncIterator[Redis]:
    """A client of the real server."""
    client = connect(server)
    yield client
    await client.aclose()


@pytest.fixture(params=["redis", "fakeredis"])
async def either_redis(request: pytest.FixtureRequest, server: str) -> AsyncIterator[Redis]:
    """A client of the real server, then one of fakeredis: a test that uses it runs on both."""
    client = connect(server) if request.param == "redis" else FakeAsyncRedis()
    yield client
    await client.aclose()


@pytest.fixture
async def publisher(server: str, namespace: str) -> AsyncIterator[Publisher]:
    async with Publisher(server, namespace=namespace) as publisher:
        yield publisher


@pytest.fixture
async def subscriber(server: str, namespace: str) -> AsyncIterator[Subscriber]:
    async with Subscriber(server, namespace=namespace) as subscriber:
        yield subscriber


LoadEngine = Callable[[VerifiedAdapter], Engine]


def fake_engine(adapter: VerifiedAdapter) -> Engine:
    return FakeEngine(adapter=adapter)


class Workers:
    """Workers of one namespace, inside the test's own process, with the fake engine unless told otherwise."""

    def __init__(self, redis: Redis, streams: Streams, shards: int = 1) -> None:
        self.redis = redis
        self.streams = streams  # also those of adapters and the fleet
        self.names = Shards(streams.namespace, shards)

    @property
    def shards(self) -> list[Shard]:
        return [Shard(self.redis, streams) for streams in self.names.all]

    def new(self, name: str = "worker", engine: Engine | None = None, **knobs: object) -> Worker:
        config = WorkerConfig(name=name, **{"burst": True, **knobs})
        metrics = Metrics("test")
        source = Source(inlets(self.shards, name), config, metrics)
        sink = Sink([Outlet(*shard, metrics.of_shard(number)) for number, shard in enumerate(self.shards)])
        return Worker(config, source, engine or FakeEngine(), sink, metrics)

    async def burst(self, name: str = "worker", engine: Engine | None = None, **knobs: object) -> Worker:
        """Run one worker until nothing is left to read."""
        worker = self.new(name, engine, **knobs)
        await worker.source.create_groups()
        await asyncio.wait_for(worker.run(), PATIENCE_SECONDS)
        return worker

    @asynccontextmanager
    async def running(
        self, name: str = "worker", engine: Engine | None = None, **knobs: object
    ) -> AsyncIterator[Worker]:
        """Run one worker while the block lasts, then let it finish."""
        worker = self.new(name, engine, **{"burst": False, **knobs})
        await worker.source.create_groups()
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.source.stop()
            await asyncio.wait_for(task, PATIENCE_SECONDS)

    def registry(self, worker: Worker, load_engine: LoadEngine = fake_engine) -> Registry:
        """The registry that decides which adapter ``worker`` serves."""
        watch = Watch(self.redis, self.streams, worker.metrics)
        return Registry(worker, watch, Fleet(self.redis, self.streams, worker.metrics), load_engine)

    @asynccontextmanager
    async def following(
        self,
        name: str = "worker",
        engine: Engine | None = None,
        load_engine: LoadEngine = fake_engine,
        **knobs: object,
    ) -> AsyncIterator[Worker]:
        """As ``running``, with a worker that serves the newest adapter from its first abstract on, and later ones."""
        worker = self.new(name, engine, burst=False, **knobs)
        registry = self.registry(worker, load_engine)
        await worker.source.create_groups()
        await registry.catch_up()
        working, following = asyncio.create_task(worker.run()), asyncio.create_task(registry.follow())
        try:
            yield worker
        finally:
            worker.source.stop()
            await asyncio.wait_for(working, PATIENCE_SECONDS)
            await end([following])

    async def pending(self) -> int:
        """How many entries were read and not answered."""
        lanes = [shard.streams.lane(lane) for shard in self.shards for lane in LANES]
        return sum([(await self.redis.xpending(lane, "classifiers"))["pending"] for lane in lanes])


@pytest.fixture
def make_adapter(tmp_path: Path) -> Callable[..., VerifiedAdapter]:
    """A function that makes an adapter for the fake engine; its version decides its answers."""

    def make(version: str = "1", **manifest: object) -> VerifiedAdapter:
        folder = tmp_path / "adapters" / version
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(PLAIN_LORA)
        (folder / "adapter_model.safetensors").write_text(version)
        return seal_for(fake_engine, folder, BASE, version=version, **manifest)

    return make


@pytest.fixture
def make_nano_adapter(phi3_nano: Path, tmp_path: Path) -> Callable[..., VerifiedAdapter]:
    """A function that makes an adapter of the shipped model, as PEFT saves it; it visibly changes the answers."""
    import torch
    from abstream.consumer.engine.config import EngineConfig
    from abstream.consumer.engine.phi3 import Phi3Engine
    from abstream.consumer.engine.weights import locate, untie
    from abstream.training.config import PHI3_LINEAR
    from peft import LoraConfig, get_peft_model
    from transformers import Phi3ForCausalLM

    def load(adapter: VerifiedAdapter) -> Engine:
        return Phi3Engine(EngineConfig(model=str(phi3_nano), device="cpu"), adapter=adapter)

    def make(
        version: str = "1", seed: int = 1, target_modules: Sequence[str] = PHI3_LINEAR, **manifest: object
    ) -> VerifiedAdapter:
        folder = tmp_path / f"nano-{version}"
        torch.manual_seed(seed)
        base = Phi3ForCausalLM.from_pretrained(phi3_nano, dtype=torch.float32)
        untie(base)  # as training does
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=list(target_modules), init_lora_weights=False)
        lora.task_type = "CAUSAL_LM"  # without one, PEFT writes down which class to import
        get_peft_model(base, lora).save_pretrained(folder, save_embedding_layers=False)
        return seal_for(load, folder, locate(str(phi3_nano)).ref, version=version, **manifest)

    return make


@pytest.fixture
def workers(redis: Redis, streams: Streams) -> Workers:
    return Workers(redis, streams)


@pytest.fixture(scope="session")
def phi3_nano() -> Path:
    """The folder of the shipped model."""
    return Path(shipped_model("phi3-nano"))
