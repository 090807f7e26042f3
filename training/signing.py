"""Signs adapters: Ed25519 over ``artifacts.signed_bytes``. Needs the extra ``signing``."""

from pathlib import Path
from typing import TYPE_CHECKING

from ..schemas import AdapterRefused
from ..schemas.artifacts import key_id, signature_text, signed_bytes
from ..schemas.events import AdapterUpdate

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sign(update: AdapterUpdate, key: "Ed25519PrivateKey") -> AdapterUpdate:
    """A copy of the update with a signature."""
    signature = signature_text(key_id(key.public_key().public_bytes_raw()), key.sign(signed_bytes(update)))
    return update.model_copy(update={"signature": signature})


def read_private_key(path: Path) -> "Ed25519PrivateKey":
    """The key in a PEM file, as ``abstream adapters keygen`` writes it.

    Raises:
        AdapterRefused: the file cannot be read, or is not an Ed25519 private key without a password.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise AdapterRefused(f"{path} cannot be read as a private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise AdapterRefused(f"{path} is a key of another kind than Ed25519")
    return key


def generate(path: Path) -> Path:
    """Write a new private key to ``path``, readable by its owner only, and its public key to ``path``.pub.

    Returns:
        The path of the public key.

    Raises:
        FileExistsError: ``path`` exists; a key that is overwritten is lost.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(private)
    beside = path.with_name(f"{path.name}.pub")
    beside.write_bytes(public)
    return beside
