"""Converts a refused entry to JSON and back, byte for byte.

If a name or a value is not UTF-8, all values are encoded in base64. Names stay readable, except those that are not
UTF-8 or begin with ``base64:``. These are written as ``base64:`` followed by their base64.
"""

import base64

from .events import OriginalEntry

_MARK = "base64:"

# A larger entry is refused without its fields. As JSON it may be six times as long, and Redis takes no value of more
# than 512 MB: a refusal that cannot be written would keep the workers busy for ever.
MAX_ORIGINAL_BYTES = 32 << 20


def to_original(stream: str, entry_id: str, fields: dict[bytes, bytes]) -> OriginalEntry:
    """The entry as it arrived, whatever its bytes; without its fields if they exceed ``MAX_ORIGINAL_BYTES``."""
    if sum(len(name) + len(value) for name, value in fields.items()) > MAX_ORIGINAL_BYTES:
        return OriginalEntry(stream=stream, entry_id=entry_id, fields={}, encoding="utf8")
    try:
        texts = {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        encoded = {_encode_name(name): base64.b64encode(value).decode() for name, value in fields.items()}
        return OriginalEntry(stream=stream, entry_id=entry_id, fields=encoded, encoding="base64")
    return OriginalEntry(stream=stream, entry_id=entry_id, fields=texts, encoding="utf8")


def from_original(original: OriginalEntry) -> dict[bytes, bytes]:
    """The fields of the entry, as they arrived."""
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
