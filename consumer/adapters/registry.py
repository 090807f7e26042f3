"""From an announcement to a live adapter: fetch, load, probe, switch. If it is rejected, the previous one stays."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from ...schemas import AbstreamError, Unavailable, VerifiedAdapter
from ...schemas.announced import Announced, Order
from ...schemas.events import AdapterAnswer, AdapterUpdate, Probes
from ..engine import Engine
from ..engine.breaks import with_breaks
from ..tasks import end
from ..worker import PROBE, Worker
from .background import Courtesy, background_thread, in_turn
from .cache import Cache
from .fleet import Fleet
from .guard import Guard
from .history import in_service
from .postponed import Postponed
from .probes import check
from .rollback import rollback
from .shadow import Shadow
from .watch import Watch

SOURCE = "urn:abstream:fleet"  # of rollbacks, whichever worker announces one first
_AGAIN_SECONDS = 0.1

log = structlog.get_logger()


@dataclass(frozen=True)
class Admitted:
    """An engine with the announced adapter, which has passed its probes."""

    engine: Engine
    probes: Probes


class Registry:
    """Decides which adapter the worker serves, and which one scores in the shadow."""

    def __init__(
        self, worker: Worker, watch: Watch, fleet: Fleet, load_engine: Callable[[VerifiedAdapter], Engine]
    ) -> None:
        self.worker = worker
        self.watch = watch
        self.fleet = fleet
        self.load_engine = load_engine
        self.cache = Cache.of(worker.config)
        self.guard = Guard(worker.config, worker.engine.model)
        self.shadow = Shadow(worker, fleet, self._reject)
        worker.observers += [self.guard.observe, self.shadow.observe]
        self._background = background_thread("admit")
        self._order = Order()
        self._postponed = Postponed()
        self._served: list[Announced] = []  # the live one is last, after those that it may be rolled back to

    async def catch_up(self) -> None:
        """Serve the newest adapter that can be served; announcements before it are skipped."""
        news = list(reversed(await self.watch.unseen()))
        objections = [self._order.objection(announced) for announced in news]
        sound = [announced for announced, objection in zip(news, objections, strict=True) if objection is None]
        if sound:
            await self.shadow.end()  # any news supersedes the candidate in the shadow
            await self._follow([*self._postponed.take(), *sound])
        for announced, objection in zip(news, objections, strict=True):
            if objection and not self._is_live(announced.update):
                await self._reject(announced, objection)

    async def follow(self) -> None:
        """Follow announcements, and supervise the live adapter and the shadow, until cancelled."""
        name = self.worker.config.name
        duties = (self._keep_up(), self._roll_back_what_fails(), self.shadow.run(), self.fleet.be_present(name))
        tasks = [asyncio.create_task(duty) for duty in duties]
        try:
            await asyncio.gather(*tasks)
        finally:
            await end(tasks)

    async def _keep_up(self) -> None:
        while True:
            if await self.watch.wait(self._postponed.pause_seconds):
                await self.catch_up()
            else:
                await self._follow(self._postponed.take())

    async def _follow(self, news: Sequence[Announced]) -> None:
        """Act on announcements, the oldest first."""
        self._served = in_service(news, self._served)
        for announced in [one for one in reversed(self._served) if one in news]:
            if await self.consider(announced):
                break
            self._served.remove(announced)
        if news[-1].update.action == "shadow":
            await self._begin_shadow(news[-1])

    async def _roll_back_what_fails(self) -> None:
        while True:
            announced, reason = await self.guard.objections.get()
            log.warning("adapter_misbehaves", version=announced.update.version, reason=reason)
            while len(self._served) > 1 and self._served[-1] is announced:
                event = rollback(self._served[-2], announced, f"{self.worker.config.name}: {reason}", SOURCE)
                if await self.fleet.announce(event, self.watch.seen):
                    break
                await asyncio.sleep(_AGAIN_SECONDS)  # something else was announced and is being considered

    async def consider(self, announced: Announced) -> bool:
        """Make the announced adapter live, or reject it, and report that to the fleet; whether it is live."""
        begun = time.perf_counter()
        if self._is_live(announced.update):
            await self._unchanged(announced)
            return True
        if admitted := await self._admit(announced):
            await self._activate(announced, admitted, _milliseconds_since(begun))
        return admitted is not None

    async def _begin_shadow(self, announced: Announced) -> None:
        """Let the announced adapter score in the shadow, or reject it."""
        if admitted := await self._admit(announced):
            self.shadow.begin(announced, admitted.engine)
            update = announced.update
            log.info("shadow_begun", version=update.version, digest=_short(update.digest))

    async def _admit(self, announced: Announced) -> Admitted | None:
        """The announced adapter, ready to serve; None if it was rejected."""
        begun = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._background, self.admit, announced.update)
        except Unavailable as error:
            reason = str(error)
            if not self._postponed.postpone(announced):
                log.info("adapter_still_out_of_reach", digest=_short(announced.update.digest))
                return None  # the rejection was published before
        except AbstreamError as error:
            reason = str(error)
        except Exception as error:
            log.exception("adapter_failed", digest=_short(announced.update.digest))
            reason = f"{type(error).__name__}: {error}"
        await self._reject(announced, reason, _milliseconds_since(begun))
        return None

    def admit(self, update: AdapterUpdate) -> Admitted:
        """Fetch, load and probe an adapter, on the background thread, while the old engine serves.

        Raises:
            AbstreamError: the adapter cannot be served, for this reason.
        """
        with self.worker.metrics.switching("fetch"):
            adapter = self.cache.fetch(update)
        with in_turn(), with_breaks(Courtesy(self.worker.ready.busy).give_way):
            return self._load(adapter)

    def _load(self, adapter: VerifiedAdapter) -> Admitted:
        with self.worker.metrics.switching("load"):
            engine = self.load_engine(adapter)
        with self.worker.metrics.switching("probe"):
            engine.classify([engine.encode(PROBE)])  # answers once, even if the manifest has no probes
            return Admitted(engine, check(engine, adapter.manifest.probes))

    def _is_live(self, update: AdapterUpdate) -> bool:
        return update.digest == self._live_digest()

    def _live_digest(self) -> str | None:
        return self.worker.engine.model.receipt.adapter_digest

    async def _activate(self, announced: Announced, admitted: Admitted, load_ms: float) -> None:
        previous, begun = self._live_digest(), time.perf_counter()
        with self.worker.metrics.switching("switch"):
            self.worker.switch(admitted.engine)
            self.guard.switched(announced, admitted.engine.model)
        switch_ms = _milliseconds_since(begun)
        self.worker.metrics.switched("activated")
        update = announced.update
        log.info("adapter_activated", version=update.version, digest=_short(update.digest), action=update.action)
        await self.fleet.activated(announced, self._answer(update, previous, load_ms, switch_ms, admitted.probes))

    async def _unchanged(self, announced: Announced) -> None:
        self.worker.metrics.switched("unchanged")
        await self.fleet.activated(announced, self._answer(announced.update, self._live_digest()))

    async def _reject(self, announced: Announced, reason: str, load_ms: float = 0) -> None:
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
