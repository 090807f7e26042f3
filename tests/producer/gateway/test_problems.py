"""What no route expects is a problem too: an error of ours, an unknown path, a Redis that is away."""

import pytest
from abstream.producer.gateway.index import Index
from structlog.testing import capture_logs

from ...conftest import PrivateRedis, wait_until
from .conftest import TAMOXIFEN


@pytest.fixture
def server(private_redis: PrivateRedis) -> str:
    return private_redis.url


async def test_an_unexpected_error_is_a_problem_and_its_log_line_has_no_text_of_it(client, monkeypatch):
    """The message of an error may hold a part of an abstract."""
    error = RuntimeError("Unmistakable text")

    async def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Index, "find", fail)
    with capture_logs() as logs:
        answer = await client.get("/v1/abstracts/7")

    assert (answer.status_code, answer.json()["type"]) == (500, "urn:abstream:problem:internal")
    [line] = [line for line in logs if line["event"] == "request_failed"]
    assert line["error"] == "RuntimeError"
    assert "Unmistakable" not in f"{line} {answer.text}"


async def test_an_unknown_path_or_method_is_a_problem_and_says_what_is_allowed(client):
    unknown, wrong = await client.get("/v1/nothing"), await client.delete("/v1/abstracts")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:abstream:problem:not-found")
    assert (wrong.status_code, wrong.json()["type"]) == (405, "urn:abstream:problem:method-not-allowed")
    assert wrong.headers["allow"] == "POST"


async def test_while_redis_is_away_clients_are_told_to_come_again_and_later_results_arrive(
    client, private_redis, workers
):
    private_redis.stop()
    answer = await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:abstream:problem:unavailable")
    assert int(answer.headers["retry-after"]) > 0

    private_redis.start()
    again = await client.post("/v1/abstracts", json={**TAMOXIFEN, "id": "7"})
    assert again.status_code == 202
    await workers.burst()

    async def done() -> bool:
        return (await client.get("/v1/abstracts/7")).json()["status"] == "done"

    await wait_until(done, "the result")
