"""Liveness and readiness: what counts as progress, and what must hold before a worker is given work."""

import pytest
from abstream.consumer.engine.fake import FakeEngine
from abstream.consumer.health import STALL_SECONDS, Health
from abstream.consumer.metrics import Metrics
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

LONG = STALL_SECONDS + 1
DEADLINE = 300.0


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock) -> Health:
    """The health of a worker whose two readers have just completed a round."""
    health = Health(DEADLINE, clock)
    health.beat("interactive", {0})
    health.beat("bulk", {0})
    return health


def test_a_loop_that_completes_its_rounds_makes_progress(health, clock):
    for _ in range(100):
        clock.passes(1)
        health.beat("interactive", {0})
        health.beat("bulk", {0})
        assert health.wedged() is None


def test_a_step_that_hangs_is_named_although_the_others_make_progress(health, clock):
    clock.passes(LONG)
    health.beat("bulk", {0})
    assert health.wedged() == f"interactive has not come round for {LONG} s"


def test_a_worker_that_loads_its_model_is_not_wedged_however_long_it_takes(clock):
    health = Health(DEADLINE, clock)
    clock.passes(100_000)
    assert health.wedged() is None


def test_readers_may_wait_as_long_as_a_batch_may_take_and_a_batch_no_longer(health, clock):
    with health.computing():
        clock.passes(DEADLINE)
        assert health.wedged() is None
        clock.passes(1)
        assert health.wedged() == "a batch has been computed for 301 s"


def test_the_end_of_a_batch_restarts_the_deadline_of_every_step(health, clock):
    with health.computing():
        clock.passes(LONG)
    assert health.wedged() is None
    clock.passes(LONG)
    assert health.wedged()


def test_waiting_for_redis_is_progress_because_a_new_process_would_wait_as_well(health, clock):
    for _ in range(100):
        clock.passes(2)
        health.redis_away(RedisConnectionError(), 0)
        assert health.wedged() is None


def test_waiting_for_one_shard_is_not_progress_of_another(clock):
    health = Health(DEADLINE, clock)
    for shard in (0, 1):
        health.beat(f"interactive of shard {shard}", {shard})
    for _ in range(int(LONG)):
        clock.passes(1)
        health.redis_away(RedisConnectionError(), 0)
    assert health.wedged() == f"interactive of shard 1 has not come round for {LONG} s"


def test_each_shard_that_is_away_is_named_until_it_is_back(health, clock):
    health.beat("interactive of shard 1", {1})
    health.serving(FakeEngine().model.receipt)
    health.ready()
    health.redis_away(RedisConnectionError(), 1)
    health.redis_away(ResponseError("OOM"), None)
    clock.passes(2)
    health.redis_away(RedisConnectionError(), 0)
    assert failing(health) == {
        "redis": "control streams refuses for 2 s: OOM; "
        "shard 0 away for 0 s: ConnectionError; shard 1 away for 2 s: ConnectionError"
    }
    health.redis_back(0)
    health.redis_back(None)
    assert failing(health) == {"redis": "shard 1 away for 2 s: ConnectionError"}


def test_a_drain_has_a_deadline_of_its_own(health, clock):
    health.draining()
    clock.passes(LONG)
    assert health.wedged() is None


def failing(health: Health) -> dict[str, str]:
    """The state of each failing check; each must have a remedy."""
    failed = {name: check for name, check in health.checks().items() if not check.ok}
    assert all(check.mend for check in failed.values())
    return {name: check.state for name, check in failed.items()}


def test_a_worker_is_ready_when_its_engine_has_answered_and_its_adapter_is_settled(health):
    assert failing(health) == {"engine": "not loaded", "adapter": "not verified"}
    health.serving(FakeEngine().model.receipt)
    assert failing(health) == {"adapter": "not verified"}
    health.ready()
    assert failing(health) == {}
    assert health.checks()["adapter"].state == "the bare base is live"


def test_the_live_adapter_is_named_by_its_digest(health, make_adapter):
    adapter = make_adapter("7")
    health.serving(FakeEngine(adapter=adapter).model.receipt)
    health.ready()
    assert adapter.digest in health.checks()["adapter"].state


def test_a_worker_is_not_ready_while_redis_is_away_and_says_since_when(health, clock):
    health.serving(FakeEngine().model.receipt)
    health.ready()

    health.redis_away(RedisConnectionError("password=secret"), 0)
    clock.passes(4)
    health.redis_away(RedisConnectionError("password=secret"), 0)
    assert failing(health) == {"redis": "away for 4 s: ConnectionError"}

    health.redis_back(0)
    assert failing(health) == {}


def test_an_error_reply_of_redis_is_shown_as_something_people_must_mend(health):
    health.serving(FakeEngine().model.receipt)
    health.ready()
    health.redis_away(ResponseError("WRONGTYPE {x}:predictions is not a stream: rename or delete it"), 0)
    assert failing(health) == {
        "redis": "refuses for 0 s: WRONGTYPE {x}:predictions is not a stream: rename or delete it"
    }


def test_a_worker_that_drains_is_not_ready(health):
    health.serving(FakeEngine().model.receipt)
    health.ready()
    health.draining()
    assert failing(health) == {"intake": "draining"}


def test_readiness_and_progress_are_metrics_too(health, clock):
    told = Metrics("test", health).registry.get_sample_value
    assert told("abstream_alive") == 1
    assert told("abstream_ready", {"check": "engine"}) == 0
    health.serving(FakeEngine().model.receipt)
    clock.passes(LONG)
    assert told("abstream_alive") == 0
    assert told("abstream_ready", {"check": "engine"}) == 1
