"""Announced, fetched, loaded, probed, live; or rejected, and the one before serves on."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ...schemas import AbstreamError, AdapterRefused, VerifiedAdapter
from ...schemas.events import AdapterAnswer, AdapterUpdate, Probes
from ..engine import Engine
from ..worker import PROBE, Worker
from .cache import Cache
from .fleet import Fleet
from .history import Announced, Order, in_service
from .probes import check
from .watch import Watch

log = structlog.get_logger()


@dataclass(frozen=True)
class Admitted:
    """An engine with the announced adapter, found fit to serve."""

    engine: Engine
    probes: Probes


class Registry:
    """Decides which adapter the worker serves."""

    def __init__(
        self, worker: Worker, watch: Watch, fleet: Fleet, load_engine: Callable[[VerifiedAdapter], Engine]
    ) -> None:
        self.worker = worker
        self.watch = watch
        self.fleet = fleet
        self.load_engine = load_engine
        self.cache = Cache.of(worker.config)
        self._order = Order()

    async def catch_up(self) -> None:
        """Serve the newest adapter that can be served; what was announced before it is passed over."""
        news = list(reversed(await self.watch.unseen()))
        objections = [self._order.objection(announced) for announced in news]
        sound = [announced for announced, objection in zip(news, objections, strict=True) if objection is None]
        for announced in reversed(in_service(sound)):
            if await self.consider(announced):
                break
        for announced, objection in zip(news, objections, strict=True):
            if objection and not self._is_live(announced.update):
                await self._reject(announced, objection, 0)

    async def follow(self) -> None:
        """Catch up with every update, until cancelled."""
        while True:
            await self.watch.wait()
            await self.catch_up()

    async def consider(self, announced: Announced) -> bool:
        """Make the announced adapter live and say so, or say why not; whether it is live."""
        update, begun = announced.update, time.perf_counter()
        if self._is_live(update):
            await self._unchanged(announced)
            return True
        try:
            admitted = await asyncio.to_thread(self.admit, update)
        except AbstreamError as error:
            await self._reject(announced, str(error), _milliseconds_since(begun))
            return False
        except Exception as error:
            log.exception("adapter_failed", digest=_short(update.digest))
            await self._reject(announced, f"{type(error).__name__}: {error}", _milliseconds_since(begun))
            return False
        await self._activate(announced, admitted, _milliseconds_since(begun))
        return True

    def admit(self, update: AdapterUpdate) -> Admitted:
        """Fetch, load and probe, on a thread of its own, while the old engine serves.

        Raises:
            AbstreamError: with what is wrong.
        """
        if update.action == "shadow":
            raise AdapterRefused("shadow is not supported yet: announce the adapter with activate")
        with self.worker.metrics.switching("fetch"):
            adapter = self.cache.fetch(update)
        with self.worker.metrics.switching("load"):
            engine = self.load_engine(adapter)
        with self.worker.metrics.switching("probe"):
            engine.classify([engine.encode(PROBE)])  # it has answered once, also where the manifest has no probes
            return Admitted(engine, check(engine, adapter.manifest.probes))

    def _is_live(self, update: AdapterUpdate) -> bool:
        return update.action != "shadow" and update.digest == self._live_digest()

    def _live_digest(self) -> str | None:
        return self.worker.engine.model.receipt.adapter_digest

    async def _activate(self, announced: Announced, admitted: Admitted, load_ms: float) -> None:
        previous, begun = self._live_digest(), time.perf_counter()
        with self.worker.metrics.switching("switch"):
            self.worker.switch(admitted.engine)
        switch_ms = _milliseconds_since(begun)
        self.worker.metrics.switched("activated")
        update = announced.update
        log.info("adapter_activated", version=update.version, digest=_short(update.digest), action=update.action)
        await self.fleet.activated(announced, self._answer(update, previous, load_ms, switch_ms, admitted.probes))

    async def _unchanged(self, announced: Announced) -> None:
        self.worker.metrics.switched("unchanged")
        await self.fleet.activated(announced, self._answer(announced.update, self._live_digest()))

    async def _reject(self, announced: Announced, reason: str, load_ms: float) -> None:
        self.worker.metrics.switched("rejected")
        update = announced.update
        log.warning("adapter_rejected", version=update.version, digest=_short(update.digest), reason=reason)
        await self.fleet.rejected(announced, self._answer(update, self._live_digest(), load_ms, reason=reason))

    def _answer(
        self,
        update: AdapterUpdate,
        previous: str | None,
        load_ms: float = 0,
        switch_ms: float = 0,
        probes: Probes | None = None,
        reason: str | None = None,
    ) -> AdapterAnswer:
        return AdapterAnswer(
            worker=self.worker.config.name,
            name=update.name,
            version=update.version,
            digest=update.digest,
            previous_digest=previous,
            load_ms=load_ms,
            switch_ms=switch_ms,
            probes=probes,
            reason=reason,
        )


def _milliseconds_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
