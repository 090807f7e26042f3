"""Which device this is, and what the GPU of this process holds in memory."""

import platform

import torch


def gpu_memory_bytes() -> dict[str, int]:
    """By kind; nothing where no GPU is in use.

    ``allocated`` is in tensors, ``reserved`` is kept by this process, ``free`` and ``total`` are of the whole GPU.
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
    """Alike for devices that are alike: the GPU's, or the kind of CPU and how many threads work on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind}, {torch.get_num_threads()} threads"
