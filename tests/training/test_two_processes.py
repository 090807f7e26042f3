"""A run in two processes: each with a copy of the base, or with a part of it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import abstream
import pytest
from abstream.consumer.engine.weights import BaseFolder
from abstream.training.recipe import CHECKPOINT
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

FSDP = Path(abstream.__file__).parent / "ops" / "accelerate" / "fsdp.yaml"


def launch(tiny: BaseFolder, out: Path, *kind: str) -> tuple[dict, dict]:
    """What the main process found, and the other one."""
    usual = ("--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no")
    command = [sys.executable, "-m", "accelerate.commands.launch", *kind, *usual, "--main_process_port"]
    script = Path(__file__).with_name("two_processes.py")
    out.mkdir()
    done = subprocess.run(
        [*command, str(free_port()), str(script), str(tiny.path), str(out)],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    main, other = (json.loads((out / f"process-{number}.json").read_text()) for number in (0, 1))
    return main, other


def test_two_processes_hold_the_same_weights_and_go_on_alike_with_copies_or_parts_of_the_base(tiny, tmp_path):
    """Each has its own dropout, also after a kill; the main one alone writes; nothing is learned of label tokens."""
    copies = launch(tiny, tmp_path / "copies", "--multi_gpu", "--num_machines", "1")
    parts = launch(tiny, tmp_path / "parts", "--config_file", str(FSDP))

    for main, other in (copies, parts):
        assert main["weights"] == other["weights"] == main["resumed"] == other["resumed"]
        assert main["history"]
        assert len(main["taught"]) == 14
        assert main["taught"] == other["taught"]
        assert main["steps"] == other["steps"]
        assert (main["files"], other["files"]) == ([CHECKPOINT], [])
        assert main["label_tokens"] == 0
    assert (copies[0]["sharded"], parts[0]["sharded"]) == (False, True)
    for one, other in zip(copies[0]["weights"], parts[0]["weights"], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    written = load_file(tmp_path / "parts" / "adapter" / "adapter_model.safetensors")
    assert [tensor.flatten().tolist() for _, tensor in sorted(written.items())] == parts[0]["weights"]


def test_accelerate_reads_the_configuration_for_fsdp():
    given = launch_command_parser().parse_args(["--config_file", str(FSDP), "script.py"])
    args, *_ = _validate_launch_command(given)
    assert (args.use_fsdp, args.fsdp_version, args.num_processes) == (True, 2, 2)
    assert args.fsdp_auto_wrap_policy == "NO_WRAP"


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]
