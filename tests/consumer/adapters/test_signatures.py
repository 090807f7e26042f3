"""Where public keys are given, an adapter is served only if its announcement is signed with one of them."""

import shutil

import pytest
from abstream.consumer.adapters.signatures import check_signature, read_public_keys
from abstream.schemas import AdapterRefused
from abstream.schemas.artifacts import signed_bytes
from abstream.schemas.events import AdapterUpdate
from abstream.training.signing import generate, read_private_key, sign


@pytest.fixture
def ours(tmp_path):
    generate(tmp_path / "ours")
    return tmp_path / "ours"


@pytest.fixture
def trusted(ours, tmp_path):
    return read_public_keys([generate(tmp_path / "before"), ours.with_name("ours.pub")])


def test_one_of_several_keys_is_enough(update, ours, trusted):
    check_signature(sign(update, read_private_key(ours)), trusted)


def test_without_keys_no_signature_is_required(update):
    check_signature(update, {})


def test_a_signature_is_independent_of_the_uri_and_the_action(update, ours, trusted):
    signed = sign(update, read_private_key(ours))
    check_signature(signed.model_copy(update={"uri": "s3://elsewhere/1", "action": "rollback"}), trusted)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", f"sha256:{'0' * 64}"),
        ("name", "other"),
        ("version", "2"),
        ("base_model", {"id": "fake", "revision": "2"}),
    ],
)
def test_a_signature_cannot_be_moved_to_another_adapter(update, ours, trusted, field, value):
    signed = sign(update, read_private_key(ours))
    moved = AdapterUpdate.model_validate(signed.model_dump() | {field: value})
    with pytest.raises(AdapterRefused, match="is not of this adapter's digest, name, version and base"):
        check_signature(moved, trusted)


def test_the_signed_text_has_one_canonical_form(update):
    named = update.model_copy(update={"name": "naïve", "digest": f"sha256:{'0' * 64}"})
    assert signed_bytes(named) == (
        b'abstream.adapter.v1\n{"base_model":{"id":"fake","revision":"1"},"digest":"sha256:' + b"0" * 64 + b'",'
        b'"name":"na\\u00efve","version":"1"}'
    )


def test_an_untrusted_signer_is_named_by_its_key(update, tmp_path, trusted):
    generate(tmp_path / "strange")
    with pytest.raises(AdapterRefused, match=r"with a key that this worker does not trust: sha256:[0-9a-f]{64}"):
        check_signature(sign(update, read_private_key(tmp_path / "strange")), trusted)


@pytest.mark.parametrize("signature", ["", "rsa:00:11", "ed25519", f"ed25519:{'0' * 64}:=", "x" * 100_000])
def test_a_signature_of_another_kind_is_refused(update, trusted, signature):
    with pytest.raises(AdapterRefused, match="is not of the kind ed25519:KEY:BASE64"):
        check_signature(update.model_copy(update={"signature": signature}), trusted)


def test_an_unsigned_adapter_is_refused_and_the_flag_is_named(update, trusted):
    with pytest.raises(AdapterRefused, match=r"not signed: .*--adapter-public-key"):
        check_signature(update, trusted)


def test_a_private_key_is_readable_by_its_owner_only_and_not_overwritten(ours):
    assert ours.stat().st_mode & 0o777 == 0o600
    before = ours.read_bytes()
    with pytest.raises(FileExistsError):
        generate(ours)
    assert ours.read_bytes() == before


def test_a_file_without_a_usable_key_is_named(ours, tmp_path):
    with pytest.raises(AdapterRefused, match="cannot be read as a public key"):
        read_public_keys([ours])
    with pytest.raises(AdapterRefused, match="cannot be read as a private key"):
        read_private_key(ours.with_name("ours.pub"))
    rsa_like = shutil.copy(__file__, tmp_path / "text")
    with pytest.raises(AdapterRefused, match="cannot be read as a public key"):
        read_public_keys([rsa_like])
