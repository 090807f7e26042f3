"""The contract as files that other programs can read."""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ..schemas import EVENTS, Event, Shards
from .asyncapi import document as asyncapi_document

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@click.group()
def schema() -> None:
    """Export the contract for other programs."""


@schema.command("export")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("schemas/exported"),
    show_default=True,
    help="Folder to write into.",
)
def schema_export(out: Path) -> None:
    """Write JSON Schemas (2020-12) of every event, AsyncAPI of the streams, OpenAPI of the gateway."""
    for path in export(out):
        click.echo(path)


def documents() -> dict[str, str]:
    """File name -> content: the JSON Schema of every event, AsyncAPI of the streams, OpenAPI of the gateway.

    The last is left out where what the gateway needs is not installed.
    """
    made = {f"{name}.json": _json(_schema(name, event)) for name, event in EVENTS.items()}
    made["asyncapi.json"] = _json(asyncapi_document(version("abstream")))
    if find_spec("fastapi"):
        made["openapi.json"] = _json(_openapi())
    return made


def export(folder: Path) -> Iterator[Path]:
    """Write every document into ``folder`` and yield its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in documents().items():
        path = folder / name
        path.write_text(content, encoding="utf-8")
        yield path


def _openapi() -> dict[str, Any]:
    from ..producer.defaults import DEFAULT_URL
    from ..producer.gateway.app import build
    from ..producer.gateway.config import GatewayConfig

    return build(DEFAULT_URL, Shards(), GatewayConfig.model_validate({})).openapi()


def _schema(name: str, event: type[Event]) -> dict[str, Any]:
    return {"$schema": DIALECT, "$id": f"urn:abstream:schema:{name}"} | event.model_json_schema(mode="validation")


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
