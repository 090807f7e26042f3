"""Verifying that an adapter is signed with a trusted key: Ed25519 over ``artifacts.signed_bytes``."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...schemas import AdapterRefused
from ...schemas.artifacts import key_id, read_signature, signed_bytes
from ...schemas.events import AdapterUpdate

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TrustedKeys = Mapping[str, "Ed25519PublicKey"]
"""Each trusted key by its sha256. If there is none, signatures are not required."""


def read_public_keys(paths: Iterable[Path]) -> TrustedKeys:
    """The keys in PEM files, as ``abstream adapters keygen`` writes them.

    Raises:
        AdapterRefused: a file is no Ed25519 public key, so that no adapter could be verified.
    """
    return {key_id(key.public_bytes_raw()): key for key in map(_read, paths)}


def check_signature(update: AdapterUpdate, trusted: TrustedKeys) -> None:
    """Verify the update's signature, if there are trusted keys.

    Raises:
        AdapterRefused: it is not signed, not with a trusted key, or for another adapter.
    """
    if not trusted:
        return
    if update.signature is None:
        raise AdapterRefused("the adapter is not signed: this worker serves signed ones only (--adapter-public-key)")
    key, signature = read_signature(update.signature)
    if key not in trusted:
        raise AdapterRefused(f"the adapter is signed with a key that this worker does not trust: {key}")
    from cryptography.exceptions import InvalidSignature

    try:
        trusted[key].verify(signature, signed_bytes(update))
    except InvalidSignature:
        raise AdapterRefused("the signature is not of this adapter's digest, name, version and base") from None


def _read(path: Path) -> "Ed25519PublicKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AdapterRefused(f"{path} cannot be read as a public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise AdapterRefused(f"{path} is a key of another kind than Ed25519")
    return key
