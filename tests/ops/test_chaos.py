"""Every fault on a small scale, and proof that the audit notices lost and repeated results."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from abstream.ops.chaos import network_faults, program, scene
from abstream.ops.chaos.ledger import Found, Ledger, audit
from abstream.ops.chaos.program import ROWS, play
from abstream.ops.chaos.scene import Row, Scale, Scene
from abstream.schemas.streams import GROUP, LANES

TINY = Scale(abstracts=200, workers=2, seed=1)

LARGER = {"poison-10", "redis-kill-everysec"}  # at this scale the same as the rows before them

# Short rows: leases, outages and batches last a fraction of a second.
SHORT = {
    "kill": {"flags": {"lease-seconds": 0.5}},
    "freeze": {"flags": {"lease-seconds": 0.5}, "milliseconds": 5},
    "poison": {"flags": {"lease-seconds": 0.3}},
    "hang": {"flags": {"lease-seconds": 0.3, "batch-deadline-seconds": 0.5}},
    "slow-batches": {"flags": {"lease-seconds": 0.5}, "milliseconds": 100},
    "redis-kill": {"flags": {"lease-seconds": 0.5}},
    "redis-away": {"flags": {"lease-seconds": 0.5}, "seconds": 0.5},
    "power-loss": {"flags": {"lease-seconds": 0.5}},
    "partition": {"flags": {"lease-seconds": 0.5}, "seconds": 0.5, "milliseconds": 20},
    "half-open": {"flags": {"lease-seconds": 0.5}, "seconds": 0.5, "milliseconds": 20},
    "backlog": {"flags": {"lease-seconds": 0.5}, "share": 5},
    "fail-over": {"milliseconds": 20},  # so that there is work left when the replica takes over
    "cluster": {"milliseconds": 20},
    # A delivery whose reply is lost counts; among so many, some are lost five times.
    "dropped-replies": {"flags": {"lease-seconds": 0.5, "max-deliveries": 100}},
}


@pytest.mark.parametrize("row", [row for row in ROWS if row.name not in LARGER], ids=lambda row: row.name)
async def test_under_every_fault_nothing_is_lost_and_nothing_is_answered_twice(row: Row, tmp_path, monkeypatch):
    monkeypatch.setattr(network_faults, "_DROPPED_SHARE", 0.1)  # since replies are few
    monkeypatch.setattr(scene, "_NODE_TIMEOUT_MILLISECONDS", 1_000)

    played = await play(replace(row, **SHORT.get(row.name, {})), TINY, tmp_path)

    assert played.wrong == ()
    assert [target for target in played.beyond if target.startswith("MiB")] == []
    assert played.audit.accepted == played.audit.answered + played.audit.refused > 0


async def test_work_is_not_over_while_a_group_is_missing(tmp_path):
    settled = []

    async def ungroup_frozen_workers(scene: Scene) -> str:
        async with scene.under_load():
            pass
        settled.append(await scene._is_settled())
        frozen = scene.workers.ready()
        for worker in frozen:
            worker.freeze()
        for lane in LANES:
            await scene.server.redis.xgroup_destroy(scene.streams.lane(lane), GROUP)
        settled.append(await scene._is_settled())
        for worker in frozen:
            worker.thaw()
        await scene.all_answered()
        settled.append(await scene._is_settled())
        return "both groups destroyed when all was answered"

    played = await play(Row("late", "groups destroyed at the end", ungroup_frozen_workers), TINY, tmp_path)

    assert settled == [True, False, True]
    assert played.wrong == ()


async def tamper(scene: Scene) -> str:
    """Remove one result, and publish another a second time."""
    async with scene.under_load():
        pass
    redis, predictions = scene.server.redis, scene.streams.predictions
    (first, _), (_, second) = await redis.xrange(predictions, count=2)
    await redis.xdel(predictions, first)
    await redis.xadd(predictions, second)
    return "one result deleted, another doubled"


async def test_a_missing_and_a_duplicated_result_are_found(tmp_path):
    played = await play(Row("tampered", "results tampered with", tamper), TINY, tmp_path)

    assert (played.audit.lost, played.audit.duplicated) == (1, 1)
    assert {"1 lost", "1 duplicated"} < set(played.wrong)


def test_the_program_reports_losses_in_its_return_value_and_in_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(program, "ROWS", (Row("tampered", "results tampered with", tamper),))

    assert not program.run(["tampered"], TINY, tmp_path)

    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["rows"][0]["audit"]["lost"] == 1
    assert said["abstracts"] == 200


def test_an_unknown_row_is_a_usage_error(abstream):
    done = abstream("chaos", "--rows", "earthquake")
    assert done.returncode == 2
    assert b"earthquake" in done.stderr
    assert b"redis-kill" in done.stderr


def count(predictions: str = "", refusals: str = "", seen: str | None = None, **left: int) -> Found:
    """What was found in Redis; each letter stands for one submission."""
    seen = predictions + refusals if seen is None else seen
    return Found(Counter(predictions), Counter(refusals), Counter(seen), **{"pending": 0, "unread": 0, **left})


@pytest.mark.parametrize(
    ("found", "faults"),
    [
        (count("ab", "p"), []),
        (count("a", "p"), ["1 lost"]),
        (count("abb", "p"), ["1 duplicated"]),
        (count("ab", "bp"), ["1 duplicated", "1 refused wrongly"]),
        (count("a", "bp"), ["1 refused wrongly"]),
        (count("abp"), ["1 answered wrongly"]),
        (count("abx", "p"), ["1 strangers"]),
        (count("abo", "p"), []),
        (count("ab", "p", seen="ap"), ["1 unseen"]),
        (count("ab", "p", seen="abbp"), ["1 unseen"]),
        (count("ab", "p", pending=2), ["2 pending"]),
        (count("ab", "p", unread=3), ["3 unread"]),
    ],
)
def test_the_audit_names_what_is_wrong(found, faults):
    """The submissions a, b and the poison p were accepted; whether o was is unknown."""
    ledger = Ledger(offered=set("abop"), hopeless=set("p"))
    ledger.accept("abp")
    assert list(audit(ledger, found).faults()) == faults
