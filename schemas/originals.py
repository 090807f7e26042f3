"""A refused entry as JSON can carry it, and back, byte for byte.

Where a name or a value is not UTF-8, all values are base64. Names stay readable then, but for one that is not UTF-8:
it is written ``base64:`` and its base64, and so is one that would look like that.
"""

import base64

from .events import OriginalEntry

_MARK = "base64:"


def to_original(stream: str, entry_id: str, fields: dict[bytes, bytes]) -> OriginalEntry:
    """The entry as it came, whatever bytes it has."""
    try:
        texts = {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        encoded = {_encode_name(name): base64.b64encode(value).decode() for name, value in fields.items()}
        return OriginalEntry(stream=stream, entry_id=entry_id, fields=encoded, encoding="base64")
    return OriginalEntry(stream=stream, entry_id=entry_id, fields=texts, encoding="utf8")


def from_original(original: OriginalEntry) -> dict[bytes, bytes]:
    """The fields of the entry, as they came."""
    if original.encoding == "utf8":
        return {name.encode(): value.encode() for name, value in original.fields.items()}
    return {_decode_name(name): base64.b64decode(value) for name, value in original.fields.items()}


def _encode_name(name: bytes) -> str:
    try:
        if not (text := name.decode()).startswith(_MARK):
            return text
    except UnicodeDecodeError:
        pass
    return _MARK + base64.b64encode(name).decode()


def _decode_name(name: str) -> bytes:
    return base64.b64decode(name.removeprefix(_MARK)) if name.startswith(_MARK) else name.encode()
