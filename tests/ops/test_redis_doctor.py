"""The doctor finds what would lose abstracts on a real server, and says how to mend it."""

import pytest
from abstream.ops.embedded import embedded_redis
from abstream.ops.finding import Finding
from abstream.ops.redis_doctor import _server, examine_redis
from abstream.schemas import Shards
from redis import Redis

DENIED = ("-info", "-config", "-ping", "-exists", "-xreadgroup", "-sadd")


def findings(url: str, streams) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine_redis(url, Shards(streams.namespace))}


@pytest.fixture
def doctored(streams):
    """A function that examines a private server, started with these options and given these commands."""

    def examine(*options: str, commands: tuple[str, ...] = (), user: str = "") -> dict[str, Finding]:
        with embedded_redis(*options) as url:
            with Redis.from_url(url, protocol=2) as redis:
                for command in commands:
                    redis.execute_command(*command.split())
            return findings(url.replace("unix://", f"unix://{user}") if user else url, streams)

    return examine


def test_a_sound_server_has_no_findings(doctored):
    found = doctored("--appendonly", "yes", "--appendfsync", "always")
    assert {finding.verdict for finding in found.values()} == {"ok"}
    assert [finding.remedy for finding in found.values()] == [""] * 5


@pytest.mark.parametrize(("memory", "verdict"), [("0", "warning"), ("100mb", "error")])
def test_a_policy_that_evicts_loses_whole_streams(doctored, memory, verdict):
    policy = doctored("--maxmemory", memory, "--maxmemory-policy", "allkeys-lru")["Redis maxmemory-policy"]
    assert (policy.verdict, policy.found) == (verdict, "allkeys-lru")
    assert "noeviction" in policy.remedy


@pytest.mark.parametrize(
    ("options", "verdict", "said"),
    [
        ("", "warning", "no append-only file"),
        ("--appendonly yes --appendfsync no", "warning", "half a minute"),
        ("--appendonly yes --appendfsync everysec", "ok", "last second"),
    ],
)
def test_the_finding_says_what_a_power_cut_would_lose(doctored, options, verdict, said):
    persistence = doctored(*options.split())["Redis persistence"]
    assert persistence.verdict == verdict
    assert said in persistence.found
    assert bool(persistence.remedy) == (verdict == "warning")


def test_a_server_that_is_too_old_is_an_error():
    [finding] = _server({"redis_version": "6.0.16"})
    assert (finding.verdict, "6.2" in finding.remedy) == ("error", True)


def test_missing_rights_of_a_user_are_reported(doctored):
    found = doctored(commands=(f"ACL SETUSER few on >secret ~* +@all {' '.join(DENIED)}",), user="few:secret@")
    assert found["Redis"].verdict == found["Redis maxmemory-policy"].verdict == "warning"
    assert found["Redis persistence"].verdict == "warning"
    assert "the sync policy is unknown" in found["Redis persistence"].found
    assert all(found[what].remedy for what in ("Redis", "Redis maxmemory-policy", "Redis persistence"))
    permissions = found["Redis permissions"]
    assert (permissions.verdict, permissions.found) == ("error", "not allowed: EXISTS, SADD, XREADGROUP")
    assert permissions.remedy.endswith("+exists +sadd +xreadgroup")


def test_a_user_with_other_keys_is_told_which_it_needs(doctored, streams):
    found = doctored(commands=("ACL SETUSER others on >secret ~other:* +@all",), user="others:secret@")
    assert f"~{{{streams.namespace}}}:*" in found["Redis permissions"].remedy
    assert found["Redis keys"].verdict == "warning"


def test_a_wrong_password_is_not_reported_as_a_missing_server(doctored):
    found = doctored(commands=("ACL SETUSER one on >secret ~* +@all",), user="one:wrong@")
    assert [finding.verdict for finding in found.values()] == ["error"]
    assert "password" in found["Redis"].remedy


async def test_a_key_of_the_wrong_type_is_named(server, redis, streams):
    await redis.set(streams.predictions, "somebody else's")
    await redis.rpush(streams.lane("bulk"), "a list")
    await redis.set(streams.replayed, "a text")
    keys = findings(server, streams)["Redis keys"]
    assert keys.verdict == "error"
    assert f"{streams.predictions} is a string, not a stream" in keys.found
    assert f"{streams.lane('bulk')} is a list, not a stream" in keys.found
    assert f"{streams.replayed} is a string, not a hash" in keys.found


async def test_a_server_is_examined_once_and_the_keys_of_all_its_shards(server, redis, namespace):
    shards = Shards(namespace, 3)
    wrong = [shards.control.output("adapters"), shards.all[0].predictions, shards.all[2].predictions]
    for key in wrong:
        await redis.set(key, "somebody else's")

    found = list(examine_redis(server, shards))

    assert [finding.what for finding in found].count("Redis permissions") == 1
    keys = [finding.found for finding in found if finding.what == "Redis keys"]
    assert keys == [f"{key} is a string, not a stream" for key in wrong]


async def test_the_examination_leaves_nothing_behind(server, redis, streams):
    assert findings(server, streams)["Redis permissions"].verdict == "ok"
    forever = -1
    assert forever not in [await redis.ttl(key) for key in await redis.keys(streams.scratch("*"))]


@pytest.mark.parametrize(
    ("there", "told", "found"),
    [
        ("{here:0}:abstracts", 1, "1, but there is {here:0}:abstracts too"),
        ("{here}:abstracts", 4, "4, but there is {here}:abstracts too"),
        ("{here:4}:abstracts", 4, "4, but there is {here:4}:abstracts too"),
        ("{here:3}:abstracts", 4, "4, on 1 servers"),
    ],
)
def test_abstracts_in_shards_that_nobody_reads_are_found(there, told, found):
    with embedded_redis() as url, Redis.from_url(url) as redis:
        redis.xadd(there, {"title": "T"})
        [finding] = [one for one in examine_redis(url, Shards("here", told)) if one.what == "shards"]
    assert finding.found == found
    assert bool(finding.remedy) == ("but" in found)
