"""Which adapters a sequence of announcements puts into service. Pure."""

from collections.abc import Collection, Iterable, Sequence

from ...schemas import AdapterRefused
from ...schemas.announced import Announced


def in_service(history: Iterable[Announced], served: Sequence[Announced] = ()) -> list[Announced]:
    """The announcement to serve, last, after those that it may be rolled back to, in their order.

    Announcements that were rolled back are left out.

    Args:
        history: oldest first.
        served: the result for all announcements before ``history``.
    """
    served = list(served)
    for announced in history:
        digest, action = announced.update.digest, announced.update.action
        if action == "shadow":
            continue
        if action == "rollback":
            served = _before(digest, served)
        elif served and served[-1].update.digest == digest:
            served = served[:-1]
        served = [*served, announced]
    return served


def _before(digest: str, served: list[Announced]) -> list[Announced]:
    """What was served before ``digest``; if that is unknown, everything except the last, which is rolled back."""
    digests = [one.update.digest for one in served]
    return served[: digests.index(digest)] if digest in digests else served[:-1]


def find(history: Sequence[Announced], wanted: str) -> Announced:
    """The newest announcement with a version, or with a digest that begins as ``wanted``.

    Raises:
        AdapterRefused: there is none, or several adapters match.
    """
    digest = wanted if wanted.startswith("sha256:") else f"sha256:{wanted}"
    found = {
        one.update.digest: one
        for one in history
        if one.update.version == wanted or one.update.digest.startswith(digest)
    }
    if len(found) > 1:
        raise AdapterRefused(f"{len(found)} adapters match {wanted}: name one by its digest, {', '.join(found)}")
    if not found:
        raise AdapterRefused(f"no adapter {wanted} has been announced: `abstream adapters list` shows all")
    return next(iter(found.values()))


def one_before(history: Sequence[Announced], served: Collection[str]) -> Announced:
    """What to roll back to: the last one in service before the live one, which some worker has served.

    Args:
        history: oldest first.
        served: digests that a worker has activated.

    Raises:
        AdapterRefused: there is none.
    """
    announced = in_service(history)
    if len(announced) == 1:
        raise AdapterRefused(
            "no other adapter was announced before this one: release the one that is to serve instead, such as "
            "the included one, abstream/ops/models/phi3-nano-oncology"
        )
    known = [one for one in announced if one.update.digest in served]
    if len(known) < 2:
        raise AdapterRefused("no worker has served another adapter before this one: name one with --to")
    return known[-2]
