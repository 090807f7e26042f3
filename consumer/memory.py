"""What a large entry took of memory goes back to the system, and does not stay with the worker."""

import ctypes

LARGE_BLOCK_BYTES = 8 << 20  # above what an accepted abstract can take, in whatever form

# Of mallopt, in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def return_large_blocks() -> None:
    """Give back what was one large block as soon as it is freed; for the whole process.

    glibc does so at first, and learns from the first large block it frees to keep those that follow: three entries of
    10 MB, one after the other, left 80 MB behind. Where there is another allocator, nothing is changed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    mallopt(_M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES // 4)  # in each thread's heap; a small one is not worth the call
