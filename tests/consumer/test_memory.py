"""Memory that passes use again and again stays with the process; a large entry's goes back."""

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_the_system_clears_no_memory_anew_for_a_pass_but_does_for_a_large_entry():
    """What share of a block is new to the process, though one as large was freed just before."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    of_a_pass, of_an_entry = map(float, done.stdout.split())
    assert of_a_pass < 0.1
    assert of_an_entry > 0.9
