"""What does the spawner have open and in memory before its first child?

Invariant: standard library only: the spawner loads it.
"""

from __future__ import annotations

import contextlib
import os


def have_standard_descriptors() -> None:
    """Have descriptors 0 to 2 open: no other takes their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        continue
    os.close(fd)


def load_name_services() -> None:
    """Have libraries of name services in memory before any child: each would load its own."""
    with contextlib.suppress(OSError, KeyError):
        os.getgrouplist("root", 0)


def keep_private(descriptor: int | None) -> None:
    """Have no program inherit a descriptor that this one was given."""
    if descriptor is not None:
        os.set_inheritable(descriptor, False)
