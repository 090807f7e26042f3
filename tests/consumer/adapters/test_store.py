"""Folders, S3 and the Hugging Face hub are read through one interface, and a release can write to S3."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from abstream.consumer.adapters import store
from abstream.consumer.adapters.cache import Cache
from abstream.consumer.adapters.store import open_store
from abstream.schemas import AdapterRefused, Unavailable
from abstream.schemas.artifacts import digest_of, list_files
from abstream.training.release import release
from abstream.training.store import put


@pytest.mark.parametrize("uri", ["https://example.org/a", "/no/scheme", "memory://a", "file://elsewhere/adapters/1"])
def test_other_schemes_and_hosts_are_refused_and_the_message_lists_the_supported_ones(uri):
    with pytest.raises(AdapterRefused, match=r"file:///…, s3://… and hf://… are read"):
        open_store(uri)


def test_a_path_with_spaces_and_percent_signs_is_found(adapter, update, cache, tmp_path):
    moved = adapter.path.rename(tmp_path / "100 % new")
    assert cache.fetch(update.model_copy(update={"uri": moved.as_uri()})).digest == adapter.digest


def test_a_folder_that_is_not_there_may_be_mounted_later():
    with pytest.raises(Unavailable, match="is the store mounted here"):
        open_store("file:///not/mounted")


@pytest.mark.parametrize("linked", ["adapter_model.safetensors", "."])
def test_a_link_in_place_of_a_file_or_of_the_folder_is_refused(adapter, tmp_path, linked):
    """A link could be redirected after the announcement."""
    path = adapter.path / linked
    outside = path.rename(tmp_path / "outside")
    path.symlink_to(outside)
    with pytest.raises(AdapterRefused, match="is a link"):
        open_store(adapter.path.as_uri()).open("adapter_model.safetensors")


def test_a_link_on_the_path_to_a_file_is_refused(adapter, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.txt").write_text("x")
    (adapter.path / "texts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdapterRefused, match="is a link"):
        open_store(adapter.path.as_uri()).open("texts/a.txt")


def test_a_pipe_in_a_files_place_is_refused_and_not_waited_for(adapter):
    (adapter.path / "adapter_model.safetensors").unlink()
    os.mkfifo(adapter.path / "adapter_model.safetensors")
    with pytest.raises(AdapterRefused, match="no regular file"):
        open_store(adapter.path.as_uri()).open("adapter_model.safetensors")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URI of a bucket on a local S3 server."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="adapters")
        yield "s3://adapters/released"
    server.stop()


async def test_an_adapter_released_into_s3_is_served_from_there(redis, streams, workers, adapter, s3):
    released = await release(redis, streams, adapter.path, s3)
    assert released.event.data.uri == f"{s3}/oncology/{adapter.digest[7:]}"

    worker = workers.new()
    await workers.registry(worker).catch_up()
    assert worker.engine.model.receipt.adapter_digest == adapter.digest


def test_an_adapter_missing_in_s3_is_refused(adapter, update, cache, s3):
    uri = put(adapter, s3)
    files = (*list_files(adapter.path)[:-1], update.files[-1].model_copy(update={"path": "gone.safetensors"}))
    other = update.model_copy(update={"uri": uri, "files": files, "digest": digest_of(files)})
    with pytest.raises(AdapterRefused, match=r"the store lacks gone\.safetensors"):
        cache.fetch(other)


def test_a_missing_bucket_is_reported_at_release(adapter, s3):
    with pytest.raises(Unavailable, match=r"s3://nowhere/oncology/.* is out of reach"):
        put(adapter, "s3://nowhere")


def test_an_unreachable_s3_is_retried_and_then_reported(update, tmp_path, s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    cache = Cache(tmp_path / "cache", max_bytes=1_000_000, pauses_seconds=(0.001,))
    with pytest.raises(Unavailable, match="s3://adapters/x is out of reach"):
        cache.fetch(update.model_copy(update={"uri": "s3://adapters/x"}))


class Hub(SimpleHTTPRequestHandler):
    """As much of the Hugging Face hub as reading a model repository takes: revision, tree and resolve."""

    folder: Path
    revision = "0" * 40

    def do_GET(self) -> None:
        if self.path == f"/api/models/someone/adapter/revision/{self.revision}":
            return self.say({"id": "someone/adapter", "sha": self.revision})
        if self.path.startswith(f"/api/models/someone/adapter/tree/{self.revision}?"):
            there = {path.name: path.stat().st_size for path in self.folder.iterdir()}
            return self.say([{"type": "file", "path": name, "size": there[name], "oid": "1"} for name in there])
        first, _, name = self.path.partition(f"/resolve/{self.revision}/")
        if first != "/someone/adapter" or not (self.folder / name).is_file():
            return self.send_error(404)
        content = (self.folder / name).read_bytes()
        start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return self.send(206, content[int(start) : int(end or len(content)) + 1])

    def say(self, answer: object) -> None:
        self.send(200, json.dumps(answer).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(adapter, monkeypatch) -> Iterator[str]:
    """The URI of the adapter, at the only revision of a stand-in for the hub."""
    handler = type("HubOfOne", (Hub,), {"folder": adapter.path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setitem(store._OPTIONS, "hf", {"endpoint": f"http://127.0.0.1:{server.server_port}", "token": False})
    yield f"hf://someone/adapter@{Hub.revision}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_adapter_is_fetched_from_the_hub(adapter, update, cache, hub):
    fetched = cache.fetch(update.model_copy(update={"uri": hub}))
    assert (fetched.digest, list_files(fetched.path)) == (adapter.digest, update.files)


def test_an_adapter_missing_on_the_hub_is_refused(adapter, update, cache, hub):
    (adapter.path / "adapter_config.json").unlink()
    with pytest.raises(AdapterRefused, match=r"the store lacks adapter_config\.json"):
        cache.fetch(update.model_copy(update={"uri": hub}))
