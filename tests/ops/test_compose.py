"""The deployment files, checked as far as that goes without a Docker engine."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import abstream
import click
import pytest
import yaml
from abstream.consumer.endpoints import Endpoints, readiness
from abstream.consumer.health import STALL_SECONDS, Health
from abstream.consumer.metrics import Metrics
from abstream.ops.cli import cli
from abstream.ops.embedded import embedded_redis
from abstream.ops.working import broker_at
from abstream.schemas import Shards
from redis import Redis

ROOT = Path(abstream.__file__).parent
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "ops/docker/Dockerfile"


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load(COMPOSE.read_text())


def test_the_compose_file_is_valid_by_the_compose_specification():
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    done = subprocess.run(checker, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", ["worker-cpu", "worker-gpu"])
def test_the_command_of_every_worker_is_valid_and_leaves_time_to_drain(compose, service):
    name, *flags = compose["services"][service]["command"]
    command = cli.commands[name]
    with click.Context(cli, info_name="abstream") as parent:
        context = command.make_context(name, flags, parent=parent)
    assert context.params["drain_seconds"] < int(compose["services"][service]["stop_grace_period"].rstrip("s"))


def test_the_gateway_listens_on_the_port_that_is_published_and_scraped(compose):
    name, *flags = compose["services"]["gateway"]["command"]
    with click.Context(cli, info_name="abstream") as parent:
        port = cli.commands[name].make_context(name, flags, parent=parent).params["port"]
    assert compose["services"]["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    jobs = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())["scrape_configs"]
    asked = {target["port"] for job in jobs for target in job["dns_sd_configs"] if target["names"] == ["gateway"]}
    assert asked == {port}


def test_mounted_folders_exist_and_ports_are_open_on_localhost_only(compose):
    for service in compose["services"].values():
        folders = [volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith("./")]
        assert all((ROOT / folder).is_dir() for folder in folders)
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_redis_starts_with_the_options_of_the_compose_file_and_persists_its_data(compose):
    """With exactly these options, on the installed server."""
    program, *options = compose["services"]["redis"]["command"]
    assert program == "redis-server"
    with embedded_redis(*options) as url, Redis.from_url(url, protocol=2, decode_responses=True) as redis:
        assert redis.config_get("appendonly") == {"appendonly": "yes"}
        assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_each_profile_has_one_worker_and_all_wait_for_redis(compose):
    services = compose["services"]
    assert {name: service.get("profiles") for name, service in services.items()} == {
        "redis": None,
        "worker-cpu": ["cpu"],
        "worker-gpu": ["gpu"],
        "gateway": ["http"],
        "prometheus": ["watch"],
        "grafana": ["watch"],
    }
    for name in ("worker-cpu", "worker-gpu", "gateway"):
        assert services[name]["depends_on"]["redis"]["condition"] == "service_healthy"


@pytest.mark.parametrize("service", ["worker-cpu", "worker-gpu"])
def test_the_health_check_of_a_worker_fails_when_its_loop_makes_no_progress(compose, service, server, streams):
    """Exactly this command, with the port of the test's endpoints."""
    kind, python, *arguments = compose["services"][service]["healthcheck"]["test"]
    command = compose["services"][service]["command"]
    port = command[command.index("--metrics-port") + 1]
    assert (kind, python) == ("CMD", "python")
    assert f":{port}/healthz" in arguments[-1]

    now = 0.0
    health, broker = Health(clock=lambda: now), broker_at(server, Shards(streams.namespace))
    endpoints = Endpoints(0, Metrics("test", health).registry, health.wedged, partial(readiness, health, broker))
    endpoints.start()

    def check() -> int:
        asked = [argument.replace(f":{port}/", f":{endpoints.server_port}/") for argument in arguments]
        return subprocess.run([sys.executable, *asked], stderr=subprocess.DEVNULL, check=False).returncode

    try:
        health.beat("interactive", {0})
        assert check() == 0
        now = STALL_SECONDS + 1
        assert check() != 0
    finally:
        endpoints.close()
        broker.close()
    assert check() != 0


def test_the_image_copies_existing_files_and_installs_with_the_constraints():
    lines = DOCKERFILE.read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert copied
    assert all((ROOT / source).exists() for source in copied)
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)


def test_the_image_has_the_version_of_the_package(compose):
    assert compose["services"]["worker-cpu"]["image"] == f"abstream:{abstream.__version__}"


def test_torch_is_pinned_to_the_tested_version():
    assert re.search(r"^torch==2\.13\.0$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
