"""The code blocks of a document, so that tests can run what readers run."""

import re
from pathlib import Path

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of ``document`` that are marked as ``language``, in order."""
    return [code for marked, code in _BLOCK.findall(document.read_text(encoding="utf-8")) if marked == language]
