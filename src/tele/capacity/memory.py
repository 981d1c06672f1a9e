"""How does a process give back the memory that only its start needed?

Invariants:

* It is called once, when everything serves: what is imported later is not covered.
* What is there then lives as long as the process; the garbage collector does not look at it again.
"""

from __future__ import annotations

import ctypes
import gc
import linecache


def release_start() -> None:
    """Return to the system what the start of this process used and does not need again."""
    # attrs keeps the source of each method that it generates, for debuggers.
    linecache.clearcache()
    gc.collect()
    gc.freeze()
    _trim()


def _trim() -> None:
    """Return free pages of the C library's heap, where it can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
