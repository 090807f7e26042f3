"""What oneDNN prepares for products of many sizes does not stay in memory."""

import os
import subprocess
import sys

import pytest
import torch
from abstream.consumer.engine import products
from abstream.consumer.engine.products import packing_works

CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
MANY_SIZES = """
import torch
from abstream.consumer.engine.layers import in_pieces
from abstream.consumer.engine.products import Packed

def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

torch.set_num_threads(1)
with torch.inference_mode():
    packed = Packed.of(torch.randn(64, 64))
    for rows in range(200, 220):
        in_pieces(packed.activated, torch.randn(rows, 64))
    before = held()
    for rows in range(500, 650):
        in_pieces(packed.activated, torch.randn(rows, 64))
    print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(not packing_works(torch.float32), reason="this CPU or torch has no such products")
def test_batches_of_ever_new_lengths_take_no_more_memory():
    """150 lengths once took 100 MiB and more, so that a worker grew with nearly every batch."""
    done = subprocess.run([sys.executable, "-c", MANY_SIZES], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20


def test_processes_that_training_starts_do_not_inherit_its_larger_cache(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "ones", lambda *_: seen.append(os.environ[CAPACITY]) or torch.zeros(1, 1))
    monkeypatch.setenv(CAPACITY, products._KEPT_PRODUCTS)

    products.keep_more_products()

    assert seen == [products._KEPT_IN_TRAINING]
    assert os.environ[CAPACITY] == products._KEPT_PRODUCTS
