"""Redis over TLS: a proxy terminates TLS in front of a real server, as with managed services."""

import asyncio
import ipaddress
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from abstream import Abstract, Publisher, Subscriber, Unavailable
from abstream.ops.chaos.cluster import free_port_of_node
from abstream.ops.chaos.servers import Server
from abstream.ops.redis_doctor import examine_redis
from abstream.schemas import Shards
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from ..conftest import wait_until

PASSWORD_OF_NOBODY = "of-nobody"
ABSTRACTS = [(f"abstract-{number}", Abstract(abstract=f"Text {number}.")) for number in range(20)]


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """The files of a self-signed certificate for 127.0.0.1 and of its key."""
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


class Front:
    """A proxy that terminates TLS in front of the Redis at ``server``, which is set later."""

    server: str

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    async def __aenter__(self) -> "Front":
        self._ends = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self.port: int = self._ends.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends.close()

    async def _connected(self, client: StreamReader, to_client: StreamWriter) -> None:
        redis, to_redis = await asyncio.open_unix_connection(self.server.removeprefix("unix://"))
        await asyncio.gather(pump(client, to_redis), pump(redis, to_client))


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    """A server-side context; clients must trust ``certificate.pem``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*write_certificate(tmp_path))
    return context


@pytest.fixture
async def secured(server: str, context: ssl.SSLContext) -> AsyncIterator[str]:
    """The URL of the server over TLS, which names no certificate authority to trust."""
    async with Front(context) as front:
        front.server = server
        yield f"rediss://127.0.0.1:{front.port}"


@pytest.fixture
async def secured_cluster(context: ssl.SSLContext) -> AsyncIterator[str]:
    """The URL over TLS of a Redis Cluster of two primaries that announce the ports of their proxies."""
    async with AsyncExitStack() as stack:
        fronts, nodes = [await stack.enter_async_context(Front(context)) for _ in range(2)], []
        for front in fronts:
            options = ("--cluster-enabled", "yes", "--cluster-announce-port", str(front.port))
            node = await stack.enter_async_context(Server(*options, port=free_port_of_node()))
            front.server = node.url
            nodes.append(node)
        await form(nodes)
        yield f"rediss+cluster://127.0.0.1:{fronts[0].port}"


async def form(nodes: list[Server]) -> None:
    """Join these servers into a cluster of primaries, with the slots divided evenly."""
    for number, node in enumerate(nodes):
        first, end = (at * REDIS_CLUSTER_HASH_SLOTS // len(nodes) for at in (number, number + 1))
        await node.redis.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        await node.redis.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
        await node.redis.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)

    async def is_formed() -> bool:
        return all([b"cluster_state:ok" in await node.redis.execute_command("CLUSTER", "INFO") for node in nodes])

    await wait_until(is_formed, "the cluster")


async def test_an_abstract_and_its_answer_travel_over_tls(secured, tmp_path, namespace, abstream):
    url = f"{secured}?ssl_ca_certs={tmp_path / 'certificate.pem'}"
    async with Publisher(url, namespace=namespace) as publisher:
        published = await publisher.publish(Abstract(title="Tamoxifen", abstract="We followed 40 patients."))

    worked = await asyncio.to_thread(abstream, "--redis-url", url, "work", "--engine", "fake", "--burst")

    assert worked.returncode == 0, worked.stderr.decode()
    async with Subscriber(url, namespace=namespace) as subscriber:
        answered = [event.causationid async for _, event in subscriber.predictions("0", until_idle=0.1)]
    assert answered == [published.id]


async def test_every_shard_of_a_cluster_is_found_over_tls(secured_cluster, tmp_path, abstream):
    url, names = f"{secured_cluster}?ssl_ca_certs={tmp_path / 'certificate.pem'}", Shards("abstream", 4)
    async with Publisher(url, shards=names.count) as publisher:
        published = await publisher.publish_many(ABSTRACTS)

    options = "--redis-url", url, "--namespace", names.namespace, "--shards", "4"
    worked = await asyncio.to_thread(abstream, *options, "work", "--engine", "fake", "--burst")

    assert worked.returncode == 0, worked.stderr.decode()
    async with Subscriber(url, shards=names.count) as subscriber:
        answered = {event.causationid async for _, event in subscriber.predictions("0", until_idle=0.1)}
    assert answered == {one.id for one in published}
    findings = await asyncio.to_thread(lambda: list(examine_redis(url, names)))
    assert [finding.found for finding in findings if finding.what == "shards"] == ["4, on 2 servers"]


async def test_a_certificate_of_an_untrusted_authority_is_refused(secured, namespace, abstream):
    for url in (secured, secured.replace("rediss://", "rediss+cluster://")):
        async with Publisher(url, namespace=namespace) as publisher:
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await publisher.publish(Abstract(title="Tamoxifen", abstract="We followed 40 patients."))

    with_password = secured.replace("rediss://", f"rediss://:{PASSWORD_OF_NOBODY}@")
    worked = await asyncio.to_thread(abstream, "--redis-url", with_password, "work", "--engine", "fake", "--burst")

    assert worked.returncode == 5
    assert b"certificate verify failed" in worked.stderr
    assert PASSWORD_OF_NOBODY.encode() not in worked.stderr
