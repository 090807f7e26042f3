"""The rules and the dashboard, checked with a real Prometheus that scrapes a real worker.

Debian's package ``prometheus`` contains ``prometheus`` and ``promtool``.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import abstream
import pytest
import yaml
from abstream import Abstract, Publisher
from abstream.consumer.drift import FEWEST
from abstream.ops.embedded import embedded_redis
from abstream.producer.connection import connect
from abstream.schemas import Streams
from abstream.schemas.expected import Bins, Expected
from abstream.training.release import release

from ..conftest import wait_until

FOLDER = Path(abstream.__file__).parent / "ops" / "prometheus"
DASHBOARD = FOLDER.parent / "grafana" / "dashboards" / "abstream.json"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
ONLY_WITH_A_GPU = {"abstream_gpu_memory_bytes"}

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not installed"
)


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)


@needs_prometheus
def test_every_alert_fires_at_its_fault_and_is_silent_otherwise():
    done = promtool("test", "rules", "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_and_says_what_to_do():
    tested = (FOLDER / "rules_test.yml").read_text()
    for rule in RULES:
        if "alert" in rule:
            assert f'{rule["alert"]}", alertstate="firing", ' in tested
            assert rule["annotations"].keys() == {"summary", "description"}


@needs_prometheus
def test_the_configuration_is_valid():
    done = promtool("check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_committed_dashboard_is_what_the_code_generates():
    """If this fails: python -m abstream.ops.grafana.dashboard"""
    pytest.importorskip("grafana_foundation_sdk")
    from abstream.ops.grafana.dashboard import document

    assert DASHBOARD.read_text() == document()


Query = Callable[[str], list]


@contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def worker(url: str) -> Iterator[int]:
    """Run a worker process; yields the port of its metrics."""
    flags = ("--engine", "fake", "--metrics-port", "0", "--read-count", "8")
    with program(
        sys.executable, "-m", "abstream.ops", "--redis-url", url, "--log-format", "json", "work", *flags
    ) as it:
        for line in it.stderr:
            if b"metrics_served" in line:
                yield json.loads(line)["port"]
                return
        raise AssertionError("the worker serves no metrics")


@contextmanager
def prometheus(folder: Path, target: int) -> Iterator[Query]:
    """Run Prometheus with the committed configuration, except for its targets and intervals."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{target}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "rules.yml", folder)
    port = free_port()
    address = f"127.0.0.1:{port}"
    flags = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    with program("prometheus", *flags, f"--web.listen-address={address}"):

        def query(expression: str) -> list:
            asked = urllib.parse.urlencode({"query": expression.replace("$__rate_interval", "1m")})
            try:
                with urllib.request.urlopen(f"http://{address}/api/v1/query?{asked}") as answer:
                    return json.load(answer)["data"]["result"]
            except urllib.error.HTTPError as refused:
                if refused.code == 503:
                    return []  # still starting
                raise ValueError(f"{expression}: {refused.read()!r}") from refused
            except urllib.error.URLError:
                return []  # not listening yet

        yield query


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


EXPECTED = Expected(
    labels={"cancer": {"Cancer": 50, "Non-Cancer": 50}},
    confidence={"cancer": Bins(bounds=(0.8, 0.95), counts=(30, 40, 30))},
    tokens=Bins(bounds=(2,), counts=(100, 0)),
)


async def use(url: str, adapter: Path, store: Path) -> None:
    """Let everything happen once that metrics count: answers, a refusal, a switch, a subscriber group."""
    streams, redis = Streams(), connect(url)
    await redis.config_set("maxmemory", "100mb")
    async with Publisher(url) as publisher:
        for number in range(20):
            await publisher.publish(Abstract(abstract=f"Text {number}."), id=str(number))
        await redis.xadd(streams.lane("interactive"), {"event": "broken"})
        await wait_until(lambda: redis.xlen(streams.refusals), "the refusal")
        await redis.xgroup_create(streams.predictions, "registry", "0")
        await release(redis, streams, adapter, store)
        await wait_until(lambda: redis.xlen(streams.output("fleet")), "the switch")
        for number in range(20, 20 + FEWEST):
            await publisher.publish(Abstract(abstract=f"Text {number}.", mesh=["Humans"]), id=str(number))
    await redis.aclose()


def queries_of_the_dashboard() -> list[str]:
    return [
        target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"] for target in panel.get("targets", ())
    ]


def selectors(expression: str) -> set[str]:
    """The series that an expression selects, since the result of an alert is empty where all is well."""
    return set(re.findall(r"\b(?:abstream[_:][\w:]+|up)(?:\{[^}]*\})?", expression))


@needs_prometheus
async def test_no_rule_and_no_dashboard_query_is_empty(make_adapter, tmp_path):
    expressions = {rule["expr"] for rule in RULES if "record" in rule} | set(queries_of_the_dashboard())
    for rule in RULES:
        expressions |= selectors(rule["expr"])
    with embedded_redis() as url, worker(url) as port, prometheus(tmp_path, port) as query:
        await wait_until(lambda: query("abstream_alive"), "the first scrape")
        await use(url, make_adapter(expected=EXPECTED).path, tmp_path / "store")
        wanting = expressions - ONLY_WITH_A_GPU
        deadline = time.monotonic() + 20
        while wanting and time.monotonic() < deadline:
            wanting = {expression for expression in wanting if not query(expression)}
        assert wanting == set()
        assert query('ALERTS{alertstate="firing"}') == []
