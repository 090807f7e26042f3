"""Redis over TLS: the server is real, and what ends the encryption stands before it, as with a managed service."""

import asyncio
import ipaddress
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from abstream import Abstract, Publisher, Subscriber, Unavailable
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PASSWORD_OF_NOBODY = "of-nobody"


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return files


async def pump(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(OSError):
        while some := await reader.read(1 << 16):
            writer.write(some)
            await writer.drain()
    writer.close()


@pytest.fixture
async def secured(server: str, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of the server over TLS, without an authority to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path))

    async def connected(client: StreamReader, to_client: StreamWriter) -> None:
        redis, to_redis = await asyncio.open_unix_connection(server.removeprefix("unix://"))
        await asyncio.gather(pump(client, to_redis), pump(redis, to_client))

    ends = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    yield f"rediss://127.0.0.1:{ends.sockets[0].getsockname()[1]}"
    ends.close()


async def test_an_abstract_and_its_answer_travel_over_tls(secured, tmp_path, namespace, abstream):
    url = f"{secured}?ssl_ca_certs={tmp_path / 'certificate.pem'}"
    async with Publisher(url, namespace=namespace) as publisher:
        published = await publisher.publish(Abstract(title="Tamoxifen", abstract="We followed 40 patients."))

    worked = await asyncio.to_thread(abstream, "--redis-url", url, "work", "--engine", "fake", "--burst")

    assert worked.returncode == 0, worked.stderr.decode()
    async with Subscriber(url, namespace=namespace) as subscriber:
        answered = [event.causationid async for _, event in subscriber.predictions("0", until_idle=0.1)]
    assert answered == [published.id]


async def test_a_certificate_of_an_authority_that_is_not_trusted_is_refused(secured, namespace, abstream):
    async with Publisher(secured, namespace=namespace) as publisher:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await publisher.publish(Abstract(title="Tamoxifen", abstract="We followed 40 patients."))

    with_password = secured.replace("rediss://", f"rediss://:{PASSWORD_OF_NOBODY}@")
    worked = await asyncio.to_thread(abstream, "--redis-url", with_password, "work", "--engine", "fake", "--burst")

    assert worked.returncode == 5
    assert b"certificate verify failed" in worked.stderr
    assert PASSWORD_OF_NOBODY.encode() not in worked.stderr
