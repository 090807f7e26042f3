"""The contract as files that other programs can read."""

import json
from collections.abc import Iterator
from pathlib import Path

from ..schemas import EVENTS, Event

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """File name -> content of the JSON Schema of every event."""
    return {f"{name}.json": _document(name, event) for name, event in EVENTS.items()}


def export(folder: Path) -> Iterator[Path]:
    """Write every document into ``folder`` and yield its path."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in documents().items():
        path = folder / name
        path.write_text(content, encoding="utf-8")
        yield path


def _document(name: str, event: type[Event]) -> str:
    schema = {"$schema": DIALECT, "$id": f"urn:abstream:schema:{name}"} | event.model_json_schema(mode="validation")
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
