"""What a forward pass frees stays for the next one; what a large entry took goes back to the system."""

import ctypes

LARGE_BLOCK_BYTES = 8 << 20  # above what an accepted abstract can take, in whatever form
KEPT_BYTES = 64 << 20  # in each thread's heap; more than a pass of a small model takes

# Of mallopt, in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def settle_memory() -> None:
    """Give back what was one large block as soon as it is freed, and keep what was smaller; for the whole process.

    glibc does the first only until it frees its first large block: then it keeps those that follow, and three entries
    of 10 MB, one after the other, left 80 MB behind. Of what is smaller it keeps little, and every pass had the system
    clear its memory anew: a tenth of its time. Where there is another allocator, nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
