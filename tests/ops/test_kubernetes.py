"""The manifests, checked as far as possible without a cluster: schemas, commands and cross-references."""

import json
import shutil
import subprocess
from collections import Counter
from functools import reduce
from itertools import compress
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
def test_every_resource_is_valid_by_the_schema_of_its_kind(resource):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resource | {"specs": {}}, KUBERNETES, strict=True)


def valid(resources: list[dict]) -> list[dict]:
    """The resources that are valid by their published schemas."""
    script, asked = ["node", "custom_resources.mjs"], json.dumps(resources)
    done = subprocess.run(script, cwd=NODE, input=asked, capture_output=True, text=True, check=True)
    return list(compress(resources, json.loads(done.stdout)))


@pytest.mark.skipif(
    not (shutil.which("node") and (NODE / "node_modules/@kubernetes-models").is_dir()),
    reason="no Node with packages: npm install in tests/node",
)
def test_the_custom_resources_are_valid_by_the_schemas_of_keda_and_the_prometheus_operator():
    custom = [resource for resource in RESOURCES if resource["kind"] in CUSTOM]
    assert {resource["kind"] for resource in custom} == CUSTOM
    wrong = [resource | {"spec": {"groups": 7, "scaleTargetRef": 7, "selector": 7}} for resource in custom]
    assert valid(custom + wrong) == custom


def test_the_prometheus_rule_has_the_rules_of_the_prometheus_folder():
    """If this fails: python -m abstream.ops.kubernetes"""
    assert RULES.read_text() == prometheus_rule()


def parsed(args: list[str]) -> click.Context:
    name, *flags = args
    with click.Context(cli, info_name="abstream") as parent:
        return cli.commands[name].make_context(name, list(flags), parent=parent)


def patched(kustomization: Path) -> dict[str, object]:
    """Map path -> value of the patch operations on the worker."""
    [patch] = yaml.safe_load(kustomization.read_text())["patches"]
    return {operation["path"]: operation["value"] for operation in yaml.safe_load(patch["patch"])}


def test_the_patches_for_cpus_replace_existing_values_by_valid_ones():
    worker = {"spec": {"template": {"spec": PODS["worker"]}}}
    operations = patched(FOLDER / "cpu" / "kustomization.yaml")
    for path, value in operations.items():
        steps = [int(step) if step.isdigit() else step for step in path.strip("/").split("/")]
        assert type(reduce(lambda part, step: part[step], steps, worker)) is type(value)
    assert parsed(operations["/spec/template/spec/containers/0/args"]).params["device"] == "cpu"


def test_the_grace_period_of_a_worker_is_longer_than_its_drain():
    [container] = PODS["worker"]["containers"]
    assert parsed(container["args"]).params["drain_seconds"] < PODS["worker"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", PODS)
def test_every_named_port_is_opened_by_the_command(name):
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


@pytest.mark.parametrize("name", PODS)
def test_network_policies_allow_only_redis_dns_models_and_the_pods_own_port(name):
    [policy] = [one["spec"] for one in RESOURCES if named(one) == f"NetworkPolicy {name}"]
    opened = {direction: ports_of(policy[direction]) for direction in ("ingress", "egress")}
    [port] = PODS[name]["containers"][0]["ports"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert opened["ingress"] == {("TCP", port["name"])}
    redis, names = {("TCP", 6379)}, {("UDP", 53), ("TCP", 53)}
    models = {("TCP", 443)} if name == "worker" else set()
    assert opened["egress"] == redis | names | models


def ports_of(rules: list[dict]) -> set[tuple[str, str | int]]:
    return {(port["protocol"], port["port"]) for rule in rules for port in rule["ports"]}


def test_all_pods_have_the_same_redis_settings():
    said = [{one["name"]: one for one in pod["containers"][0]["env"]} for pod in PODS.values()]
    for name in ("ABSTREAM_REDIS_URL_FILE", "ABSTREAM_SHARDS"):
        first, *others = (variables[name] for variables in said)
        assert others == [first] * len(others)


@pytest.mark.parametrize("name", PODS)
def test_secrets_are_mounted_as_files_and_never_in_the_environment(name):
    [container] = PODS[name]["containers"]
    variables = {one["name"]: one.get("value", "") for one in container["env"]}
    assert not any("secretKeyRef" in one.get("valueFrom", {}) for one in container["env"])
    secrets = {one["name"]: one["secret"]["secretName"] for one in PODS[name]["volumes"] if "secret" in one}
    folders = {mount["mountPath"]: secrets.get(mount["name"]) for mount in container["volumeMounts"]}
    assert folders[str(Path(variables["ABSTREAM_REDIS_URL_FILE"]).parent)] == "abstream-redis"


@pytest.mark.parametrize("name", PODS)
def test_every_environment_variable_is_read_by_abstream(name):
    [container] = PODS[name]["containers"]
    options = [*cli.params, *cli.commands[container["args"][0]].params]
    read = {variable for option in options if isinstance(option, click.Option) for variable in option.envvar or ()}
    assert {one["name"] for one in container["env"]} <= read


def test_every_pod_has_a_disruption_budget_that_lets_nodes_be_drained():
    budgets = {one["metadata"]["name"]: one["spec"] for one in RESOURCES if one["kind"] == "PodDisruptionBudget"}
    assert budgets.keys() == PODS.keys()
    replicas = {
        one["metadata"]["name"]: one["spec"].get("replicas") for one in RESOURCES if one["kind"] == "Deployment"
    }
    for name, budget in budgets.items():
        assert budget.get("maxUnavailable", 0) > 0 or budget["minAvailable"] < replicas[name]


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
@pytest.mark.parametrize("name", ["base", "cpu"])
def test_kustomize_puts_every_resource_in_the_namespace(name):
    done = subprocess.run(["kubectl", "kustomize", FOLDER / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert Counter(map(named, built)) == Counter(map(named, RESOURCES))
    assert {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"} == {"abstream"}


def test_every_selector_matches_a_pod():
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


def test_autoscaling_counts_pending_abstracts_too():
    [scaled] = [resource for resource in RESOURCES if resource["kind"] == "ScaledObject"]
    [trigger] = scaled["spec"]["triggers"]
    rules = yaml.safe_load((FOLDER.parent / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    [unanswered] = [rule["expr"] for rule in rules if rule.get("record") == "abstream:unanswered"]
    assert trigger["metadata"]["query"] == "sum(abstream:unanswered)"  # of both lanes, each of all shards
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert {"abstream_stream_lag", "abstream_stream_pending"} <= set(
        unanswered.replace("(", " ").replace(")", " ").split()
    )
