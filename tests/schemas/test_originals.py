"""A refused entry can be restored exactly, whatever bytes it had."""

import pytest
from abstream.schemas.events import OriginalEntry
from abstream.schemas.originals import MAX_ORIGINAL_BYTES, from_original, to_original

ENTRIES = {
    "texts": {b"event": b"{}", "β".encode(): "γ\0".encode()},
    "a value that is no text": {b"event": b"\xff\0", b"note": b"kept"},
    "a name that is no text": {b"\xff": b"a", rb"\xff": b"b"},
    "a name that looks encoded": {b"base64:/w==": b"a", b"\xff": b"b"},
    "a name that looks encoded, among texts": {b"base64:/w==": b"a"},
    "nothing": {},
    "empty names and values": {b"": b""},
}


@pytest.mark.parametrize("fields", ENTRIES.values(), ids=ENTRIES.keys())
def test_an_entry_comes_back_byte_for_byte(fields):
    original = to_original("stream", "1-0", fields)
    assert from_original(OriginalEntry.model_validate_json(original.model_dump_json())) == fields


def test_an_entry_that_no_refusal_could_hold_is_named_without_its_fields():
    """As JSON each byte may take six characters, and Redis takes at most 512 MB in one value."""
    assert 6 * MAX_ORIGINAL_BYTES < 512 << 20
    most = MAX_ORIGINAL_BYTES - len(b"event")
    held, too_large = (to_original("stream", "1-0", {b"event": bytes(size)}) for size in (most, most + 1))
    assert (len(held.fields), too_large.fields, too_large.entry_id) == (1, {}, "1-0")


def test_texts_stay_readable():
    assert to_original("stream", "1-0", {b"title": b"A"}).fields == {"title": "A"}
    assert to_original("stream", "1-0", {b"title": b"A", b"note": b"\xff"}).fields == {"title": "QQ==", "note": "/w=="}
