"""The real model gives the same answers through the stream and from file to file."""

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

from ..conftest import wait_until

SAMPLE = str(files("abstream.ops.sample") / "test.jsonl")


def abstream(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "abstream.ops", *arguments]


async def test_publish_and_wait_gives_the_labels_that_classify_gives_without_redis(server, namespace, tmp_path):
    common = ["--redis-url", server, "--namespace", namespace, "--log-format", "json"]
    log = tmp_path / "worker.log"
    with log.open("wb") as stderr:
        worker = subprocess.Popen(abstream(*common, "work", "--threads", "1"), stderr=stderr)
    try:
        await wait_until(lambda: "worker_ready" in log.read_text(), "the worker")
        published = subprocess.run(abstream(*common, "publish", SAMPLE, "--wait"), capture_output=True, check=True)
        worker.terminate()
        await wait_until(lambda: worker.poll() is not None, "the worker's end")
    finally:
        worker.kill()
        worker.wait()
    out = tmp_path / "out.jsonl"
    subprocess.run(abstream("classify", SAMPLE, "-o", str(out), "--threads", "1"), check=True, capture_output=True)

    streamed = {event["causationid"]: event["data"] for event in map(json.loads, published.stdout.splitlines())}
    from_files = {line["id"]: line for line in map(json.loads, Path(out).read_text().splitlines())}
    assert len(streamed) == len(from_files) == 50
    for id_, line in from_files.items():
        assert streamed[id_]["model"] == line["model"]
        assert list(streamed[id_]["answers"]) == list(line["answers"])
        for question, answer in line["answers"].items():
            other = streamed[id_]["answers"][question]
            assert other["label"] == answer["label"]
            assert abs(other["confidence"] - answer["confidence"]) < 1e-4
    assert worker.returncode == 0
