"""What the GPU of this process holds in memory."""

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
