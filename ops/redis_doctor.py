"""What is wrong with a Redis server, or with what this user may do there."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError

from ..producer.connection import connect_blocking
from ..schemas import Shards, Streams
from ..schemas.streams import GROUP, LANES, OUTPUTS
from .finding import Finding
from .settings import without_password

OLDEST_REDIS = (6, 2)

# What publishers, workers and subscribers need, each tried on a key that nobody has; nothing is left behind.
_COMMANDS = (
    "XADD KEY NOMKSTREAM * a b", "XLEN KEY", "XRANGE KEY - +", "XREVRANGE KEY + -", "XREAD STREAMS KEY 0",
    f"XGROUP CREATE KEY {GROUP} 0", f"XGROUP DELCONSUMER KEY {GROUP} a", f"XREADGROUP GROUP {GROUP} a STREAMS KEY >",
    f"XACK KEY {GROUP} 1-0", f"XPENDING KEY {GROUP}", f"XCLAIM KEY {GROUP} a 0 1-0", "XTRIM KEY MINID 0",
    "XINFO STREAM KEY", "XINFO GROUPS KEY", f"XINFO CONSUMERS KEY {GROUP}",
    "GET KEY", "SET KEY a XX", "EXISTS KEY", "TYPE KEY", "TIME", "SCRIPT LOAD return", "EVALSHA 0 1 KEY",
    "SISMEMBER KEY a", "SADD KEY a", "EXPIRE KEY 1",
)  # fmt: skip


def examine_redis(url: str, shards: Shards) -> Iterator[Finding]:
    """Each server that has a shard, its settings, what this user may do there, and the keys of the namespace."""
    servers: set[object] = set()
    wrong: list[Finding] = []
    try:
        for streams in dict.fromkeys((shards.control, *shards.all)):
            with connect_blocking(url, streams, answer_seconds=3) as redis:
                info = _info(redis)
                if (server := info.get("run_id")) not in servers:
                    servers.add(server)
                    yield from _server(info)
                    policy = info.get("maxmemory_policy") or _setting(redis, "maxmemory-policy")
                    yield _memory(policy, info.get("maxmemory"))
                    yield _persistence(redis, info)
                    yield _permissions(redis, streams)
                wrong += [found for found in [_keys(redis, streams)] if found.verdict != "ok"]
        yield from wrong or [Finding("Redis keys", "ok", f"all keys of {shards.namespace} have the right type")]
        yield from _shards(url, shards, len(servers))
    except (AuthenticationError, AuthorizationError) as error:
        remedy = "put user and password into the URL: redis://USER:PASSWORD@HOST"
        yield Finding("Redis", "error", str(error), remedy)
    except RedisError as error:
        remedy = "start Redis, or give its address with --redis-url or REDIS_URL"
        yield Finding("Redis", "out of reach", f"{without_password(url)}: {error}", remedy)
    except ValueError:  # whose text holds what was taken for a port, and may be the end of a password
        yield Finding(
            "Redis", "error", "its URL cannot be read", "write redis://USER:PASSWORD@HOST:6379, with / as %2F"
        )


def _shards(url: str, shards: Shards, servers: int) -> Iterator[Finding]:
    """Whether streams of another shard count exist, which nobody with this count would read."""
    several, name = shards.count > 1, shards.namespace
    others = (Streams(f"{name}:{shards.count}"), shards.control) if several else (Streams(f"{name}:0"),)
    if beside := next((streams for streams in others if _has_abstracts(url, streams)), None):
        found = f"{shards.count}, but there is {beside.lane('interactive')} too"
        yield Finding(
            "shards", "warning", found, "use the same --shards everywhere; DEL the streams of an earlier number"
        )
    elif several:
        yield Finding("shards", "ok", f"{shards.count}, on {servers} servers")


def _has_abstracts(url: str, streams: Streams) -> bool:
    with connect_blocking(url, streams, answer_seconds=3) as redis, suppress(NoPermissionError):
        return bool(redis.exists(streams.lane("interactive")))
    return False


def _info(redis: Any) -> dict[str, Any]:
    """What INFO says; nothing where this user may not run it."""
    try:
        return dict(redis.info())
    except NoPermissionError:
        return {}


def _setting(redis: Any, name: str) -> str | None:
    """A server setting, or None where CONFIG is not allowed, as in many hosted services."""
    try:
        return str(redis.config_get(name)[name])
    except (ResponseError, KeyError):
        return None


def _server(info: dict[str, Any]) -> Iterator[Finding]:
    if not info:
        remedy = "ACL SETUSER … +info, or ask the administrator for the version, which must be 6.2 or newer"
        yield Finding("Redis", "warning", "answers, but INFO is not allowed for this user", remedy)
        return
    version = str(info["redis_version"])
    if tuple(map(int, version.split(".")[:2])) >= OLDEST_REDIS:
        yield Finding("Redis", "ok", version)
    else:
        yield Finding("Redis", "error", version, "upgrade to Redis 6.2 or newer")


def _memory(policy: str | None, limit: int | None) -> Finding:
    what = "Redis maxmemory-policy"
    if policy is None:
        remedy = "ask the administrator for noeviction: any other policy removes whole streams when memory is short"
        return Finding(what, "warning", "neither INFO nor CONFIG is allowed for this user", remedy)
    if policy == "noeviction":
        return Finding(what, "ok", policy)
    remedy = "CONFIG SET maxmemory-policy noeviction, or whole streams are removed when memory is short"
    return Finding(what, "warning" if limit == 0 else "error", policy, remedy)


def _persistence(redis: Any, info: dict[str, Any]) -> Finding:
    what, sync = "Redis persistence", _setting(redis, "appendfsync")
    enabled = bool(info.get("aof_enabled")) or _setting(redis, "appendonly") == "yes"
    if not enabled and (info or sync):
        remedy = "CONFIG SET appendonly yes, or a restart loses everything since the last snapshot"
        return Finding(what, "warning", "no append-only file", remedy)
    if sync == "always":
        return Finding(what, "ok", "append-only file, appendfsync always")
    if sync == "everysec":
        found = "append-only file, appendfsync everysec: a power cut may lose the last second, or two of a busy disk"
        return Finding(what, "ok", found)
    if sync == "no":
        remedy = "CONFIG SET appendfsync always, or everysec if a power cut may lose the last second"
        return Finding(
            what, "warning", "append-only file, but appendfsync no: a power cut may lose half a minute", remedy
        )
    remedy = "ask the administrator for appendonly yes, and appendfsync always or everysec"
    return Finding(what, "warning", "CONFIG is not allowed for this user, so the sync policy is unknown", remedy)


def _permissions(redis: Any, streams: Streams) -> Finding:
    denied = sorted({command.split()[0] for command in _COMMANDS if not _may(redis, command, streams)})
    if not denied:
        return Finding("Redis permissions", "ok", "what publishers, workers and subscribers need")
    allow = " ".join(f"+{name.lower()}" for name in denied)
    remedy = f"ACL SETUSER … ~{{{streams.namespace}}}:* {allow}"
    return Finding("Redis permissions", "error", f"not allowed: {', '.join(denied)}", remedy)


def _may(redis: Any, command: str, streams: Streams) -> bool:
    key = streams.scratch("doctor")
    try:
        redis.execute_command(*(key if word == "KEY" else word for word in command.split()))
    except NoPermissionError:
        return False
    except ResponseError:
        return True  # it would have been done, were there anything to do it to
    return True


def _keys(redis: Any, streams: Streams) -> Finding:
    wanted = dict.fromkeys([*map(streams.lane, LANES), *map(streams.output, OUTPUTS)], "stream")
    wanted |= {streams.replayed: "hash", streams.turn: "string"}
    try:
        kinds = {key: redis.type(key).decode() for key in wanted}
    except NoPermissionError:
        return Finding("Redis keys", "warning", "TYPE is not allowed for this user", "ACL SETUSER … +type")
    wrong = [
        f"{key} is a {kind}, not a {wanted[key]}" for key, kind in kinds.items() if kind not in ("none", wanted[key])
    ]
    if not wrong:
        return Finding("Redis keys", "ok", f"all keys of {streams.namespace} have the right type")
    return Finding(
        "Redis keys", "error", "; ".join(wrong), "RENAME the keys that are not abstream's, or use another --namespace"
    )
