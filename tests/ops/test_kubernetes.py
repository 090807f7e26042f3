"""The manifests, checked as far as that goes without a cluster: schemas, commands, and what one says of another."""

import json
import shutil
import subprocess
from functools import reduce
from pathlib import Path

import abstream
import click
import pytest
import yaml
from abstream.ops.cli import cli
from abstream.ops.kubernetes import FOLDER, RULES, prometheus_rule

NODE = Path(abstream.__file__).parent / "tests" / "node"
KUBERNETES = "1.37"
CUSTOM = {"ScaledObject", "PodMonitor", "PrometheusRule"}

BASE = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text())
RESOURCES = [
    resource for name in BASE["resources"] for resource in yaml.safe_load_all((FOLDER / "base" / name).read_text())
]
PODS = {
    resource["metadata"]["name"]: resource["spec"]["template"]["spec"]
    for resource in RESOURCES
    if resource["kind"] == "Deployment"
}


def named(resource: dict) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


@pytest.mark.parametrize("resource", [one for one in RESOURCES if one["kind"] not in CUSTOM], ids=named)
def test_a_resource_is_what_kubernetes_says_of_its_kind(resource):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource | {"specs": {}}, KUBERNETES, strict=True)


def custom_resources_are_valid(resources: list[dict]) -> bool:
    script = ["node", "custom_resources.mjs"]
    asked = json.dumps(resources)
    return subprocess.run(script, cwd=NODE, input=asked, capture_output=True, text=True, check=False).returncode == 0


@pytest.mark.skipif(
    not (shutil.which("node") and (NODE / "node_modules/@kubernetes-models").is_dir()),
    reason="no Node with packages: npm install in tests/node",
)
def test_the_custom_resources_are_what_keda_and_the_prometheus_operator_say_of_them():
    custom = [resource for resource in RESOURCES if resource["kind"] in CUSTOM]
    assert {resource["kind"] for resource in custom} == CUSTOM
    assert custom_resources_are_valid(custom)
    wrong = {"groups": 7, "scaleTargetRef": 7, "selector": 7}
    for resource in custom:
        assert not custom_resources_are_valid([resource | {"spec": wrong}]), named(resource)


def test_the_rules_are_those_of_prometheus():
    """If this fails: python -m abstream.ops.kubernetes"""
    assert RULES.read_text() == prometheus_rule()


def parsed(args: list[str]) -> click.Context:
    name, *flags = args
    with click.Context(cli, info_name="abstream") as parent:
        return cli.commands[name].make_context(name, list(flags), parent=parent)


def patched(kustomization: Path) -> dict[str, object]:
    """Path -> value of the operations on the worker."""
    [patch] = yaml.safe_load(kustomization.read_text())["patches"]
    return {operation["path"]: operation["value"] for operation in yaml.safe_load(patch["patch"])}


def test_the_patches_for_cpus_replace_what_is_there_by_what_abstream_takes():
    worker = {"spec": {"template": {"spec": PODS["worker"]}}}
    operations = patched(FOLDER / "cpu" / "kustomization.yaml")
    for path, value in operations.items():
        steps = [int(step) if step.isdigit() else step for step in path.strip("/").split("/")]
        assert type(reduce(lambda part, step: part[step], steps, worker)) is type(value)
    assert parsed(operations["/spec/template/spec/containers/0/args"]).params["device"] == "cpu"


def test_a_worker_has_longer_than_its_drain_before_it_is_killed():
    [container] = PODS["worker"]["containers"]
    assert parsed(container["args"]).params["drain_seconds"] < PODS["worker"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", PODS)
def test_every_port_that_is_named_is_one_that_the_command_opens(name):
    [container] = PODS[name]["containers"]
    [port] = container["ports"]
    params = parsed(container["args"]).params
    assert port["containerPort"] == (params["metrics_port"] if name == "worker" else params["port"])
    probes = [container[probe]["httpGet"] for probe in container if probe.endswith("Probe")]
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert {probe["path"] for probe in probes} == {"/healthz", "/readyz"}


@pytest.mark.parametrize("name", PODS)
def test_no_container_runs_as_root_or_writes_outside_its_volumes(name):
    assert PODS[name]["securityContext"]["runAsNonRoot"]
    for container in PODS[name]["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_every_selector_finds_a_pod():
    labels = {name: {"app.kubernetes.io/name": name} for name in PODS}
    selectors = [
        resource["spec"][key].get("matchLabels", resource["spec"][key])
        for resource in RESOURCES
        for key in ("selector", "podSelector")
        if key in resource.get("spec", {})
    ]
    assert len(selectors) >= 9
    assert all(selector in labels.values() for selector in selectors)


def test_the_image_has_the_version_of_the_package():
    assert BASE["images"] == [{"name": "abstream", "newTag": abstream.__version__}]


def test_what_scales_workers_counts_what_is_in_hand_too():
    [scaled] = [resource for resource in RESOURCES if resource["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    rules = yaml.safe_load((FOLDER.parent / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    [unanswered] = [rule["expr"] for rule in rules if rule.get("record") == "abstream:unanswered"]
    assert "abstream:unanswered" in trigger["metadata"]["query"]
    assert {"abstream_stream_lag", "abstream_stream_pending"} <= set(
        unanswered.replace("(", " ").replace(")", " ").split()
    )
