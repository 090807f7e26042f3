"""Settings of the memory allocator: forward passes reuse what they free, and large blocks go back to the system."""

import ctypes

LARGE_BLOCK_BYTES = 8 << 20  # more than an accepted abstract needs in any form
KEPT_BYTES = 64 << 20  # in each thread's heap; more than a pass of a small model needs

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def settle_memory() -> None:
    """Return large blocks to the system as soon as they are freed, and keep smaller ones; for the whole process.

    By default glibc returns large blocks only until it frees the first one, and keeps those that follow: three entries
    of 10 MB, one after the other, left 80 MB behind. Of smaller blocks it keeps few, so that the system had to clear
    the memory of every pass anew, a tenth of its time. With another allocator nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
