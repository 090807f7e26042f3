"""Manifests for Kubernetes, and the one that is made from another file: ``python -m abstream.ops.kubernetes``."""

from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
RULES = FOLDER / "base" / "rules.yaml"
_HEAD = "# Made from ops/prometheus/rules.yml: python -m abstream.ops.kubernetes\n"


def prometheus_rule() -> str:
    """The rules as the Prometheus operator reads them."""
    groups = yaml.safe_load((FOLDER.parent / "prometheus" / "rules.yml").read_text(encoding="utf-8"))["groups"]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "abstream"},
        "spec": {"groups": groups},
    }
    return f"{_HEAD}{yaml.safe_dump(rule, sort_keys=False, width=120)}"
