"""The name of a device, and how much memory of the GPU is in use."""

import platform

import torch


def gpu_memory_bytes() -> dict[str, int]:
    """Bytes by kind; empty where no GPU is in use.

    ``allocated`` is held by tensors, ``reserved`` by this process; ``free`` and ``total`` are those of the whole GPU.
    """
    if not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "free": free,
        "total": total,
    }


def device_name(device: torch.device) -> str:
    """A name that like devices share: the GPU's, or the kind of CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind}, {torch.get_num_threads()} threads"
