"""How does a process give back the memory that only its start needed?

Invariants:

* It is called once, when everything serves: modules that are imported later are not covered.
* Objects that exist then live as long as the process: the garbage collector skips them.
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
