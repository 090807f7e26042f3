"""The memory that every forward pass needs stays with the process; that of a large entry is given back."""

import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import wait_until
from ..story.test_3_nothing_is_lost_nothing_is_repeated import start_worker

HUGE = "x" * 10_000_000
MOST_GROWTH_KIB = 40 << 10  # an entry is read, decoded, dumped and sent: never four copies at once

PROGRAM = """
import resource
from abstream.consumer.memory import settle_memory
settle_memory()
def pages(size):
    bytearray(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytearray(size)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / (20 * size)
print(pages(6 << 20), pages(12 << 20))
"""


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc and /proc")


@on_linux
def test_the_memory_of_a_pass_is_reused_and_that_of_a_large_entry_is_given_back():
    """Measured as the share of a block's pages that fault, although a block as large was freed just before."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    of_a_pass, of_an_entry = map(float, done.stdout.split())
    assert of_a_pass < 0.1
    assert of_an_entry > 0.9


@on_linux
async def test_an_entry_of_ten_megabytes_costs_a_worker_at_most_a_few_times_its_size(
    server, namespace, redis, streams, subscriber, tmp_path
):
    process = start_worker(server, namespace, tmp_path / "worker.log")
    memory = Path(f"/proc/{process.pid}")
    try:
        await redis.xadd(streams.lane("interactive"), {"title": "A sound one", "abstract": ""})
        await wait_until(lambda: redis.xlen(streams.predictions), "a worker that is warm")
        (memory / "clear_refs").write_text("5")  # resets VmHWM
        before = kib(memory, "VmHWM")
        await redis.xadd(streams.lane("interactive"), {"title": "A huge one", "abstract": HUGE})
        await wait_until(lambda: redis.xlen(streams.refusals), "the refusal")
        [(_, refusal)] = [one async for one in subscriber.refusals(since="0", until_idle=0.1)]
        grown = kib(memory, "VmHWM") - before
    finally:
        process.kill()
        process.wait()

    assert refusal.data.original.fields["abstract"] == HUGE
    assert grown < MOST_GROWTH_KIB


def kib(memory: Path, name: str) -> int:
    [line] = [line for line in (memory / "status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1])
