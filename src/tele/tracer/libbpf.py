"""How is libbpf called without a package of its own?

Invariants:

* The standard library and ``libbpf.so.1``, which is loaded when it is first needed.
* A call that fails raises OSError with the kernel's error; what libbpf says of it is kept for who
  asks, and goes to no terminal.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

_SAMPLE: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_PRINT: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTER, _INT, _TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "libbpf_set_print": (_POINTER, _PRINT),
    "bpf_object__open_file": (_POINTER, _TEXT, _POINTER),
    "bpf_object__load": (_INT, _POINTER),
    "bpf_object__close": (None, _POINTER),
    "bpf_object__next_program": (_POINTER, _POINTER, _POINTER),
    "bpf_object__find_map_by_name": (_POINTER, _POINTER, _TEXT),
    "bpf_program__name": (_TEXT, _POINTER),
    "bpf_program__fd": (_INT, _POINTER),
    "bpf_program__set_autoload": (_INT, _POINTER, ctypes.c_bool),
    "bpf_program__attach": (_POINTER, _POINTER),
    "bpf_link__destroy": (_INT, _POINTER),
    "bpf_map__fd": (_INT, _POINTER),
    "bpf_map__set_max_entries": (_INT, _POINTER, ctypes.c_uint32),
    "bpf_map_update_elem": (_INT, _INT, _POINTER, _POINTER, ctypes.c_uint64),
    "bpf_map_lookup_elem": (_INT, _INT, _POINTER, _POINTER),
    "bpf_map_delete_elem": (_INT, _INT, _POINTER),
    "bpf_map_get_next_key": (_INT, _INT, _POINTER, _POINTER),
    "ring_buffer__new": (_POINTER, _INT, _SAMPLE, _POINTER, _POINTER),
    "ring_buffer__consume": (_INT, _POINTER),
    "ring_buffer__epoll_fd": (_INT, _POINTER),
    "ring_buffer__free": (None, _POINTER),
}
#: Bytes of what libbpf says that are kept.
_SAID_LIMIT: Final = 64 * 1024
#: What a callback returns to be called no more for now.
_ENOUGH: Final = -1


class Library:
    """The functions of libbpf. Raises OSError if there is none."""

    def __init__(self) -> None:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.functions = library
        self.said = ""
        format_text = ctypes.CDLL(None).vsnprintf
        format_text.argtypes = (_TEXT, ctypes.c_size_t, _TEXT, _POINTER)

        def note(_level: int, template: bytes, arguments: int) -> int:
            text = ctypes.create_string_buffer(2048)
            format_text(text, len(text), template, arguments)
            self.said = (self.said + text.value.decode("utf-8", "replace"))[-_SAID_LIMIT:]
            return 0

        self._note = _PRINT(note)
        library.libbpf_set_print(self._note)

    def trim(self) -> None:
        """Give memory back that loading needed, where the C library can."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    def check(self, result: int | None) -> int:
        """Return ``result``. Raises OSError for NULL and negative numbers."""
        if result is None or result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


class Map:
    """A map with keys and values of fixed sizes, in bytes."""

    def __init__(self, library: Library, descriptor: int, key: int, value: int) -> None:
        self._library = library
        self._descriptor = descriptor
        self._key = key
        self._value = value

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of ``key``. Raises OSError."""
        call = self._library.functions.bpf_map_update_elem
        self._library.check(call(self._descriptor, key, value, 0))

    def get(self, key: bytes) -> bytes | None:
        """Return the value of ``key``."""
        value = ctypes.create_string_buffer(self._value)
        call = self._library.functions.bpf_map_lookup_elem
        return None if call(self._descriptor, key, value) < 0 else value.raw

    def remove(self, key: bytes) -> None:
        """Remove ``key``, if it is there."""
        self._library.functions.bpf_map_delete_elem(self._descriptor, key)

    def all_keys(self) -> Iterator[bytes]:
        """Return all keys; one that is removed meanwhile may make it begin again."""
        key: bytes | None = None
        while True:
            following = ctypes.create_string_buffer(self._key)
            call = self._library.functions.bpf_map_get_next_key
            if call(self._descriptor, key, following) < 0:
                return
            key = following.raw
            yield key


class Ring:
    """The reader of one ring."""

    def __init__(self, library: Library, descriptor: int) -> None:
        self._library = library
        self._read: list[bytes] = []
        self._limit = 0
        copy = ctypes.string_at

        def take(_context: int, data: int, size: int) -> int:
            read = self._read
            read.append(copy(data, size))
            return _ENOUGH if len(read) >= self._limit else 0

        self._take = _SAMPLE(take)
        pointer = library.functions.ring_buffer__new(descriptor, self._take, None, None)
        self._pointer = library.check(pointer)

    def fileno(self) -> int:
        """Return what can be polled for records."""
        return int(self._library.functions.ring_buffer__epoll_fd(self._pointer))

    def read(self, limit: int) -> list[bytes]:
        """Return up to ``limit`` records: fewer if that is all there are."""
        self._read, self._limit = [], limit
        self._library.functions.ring_buffer__consume(self._pointer)
        return self._read

    def close(self) -> None:
        """Read no more."""
        self._library.functions.ring_buffer__free(self._pointer)


def missed_runs(path: str) -> int:
    """Return ``recursion_misses`` of a program's description (since Linux 5.12), or 0."""
    try:
        with open(path, encoding="ascii") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    return sum(int(words[1]) for words in lines if words[:1] == ["recursion_misses:"])


class Object:
    """Programs and maps of a compiled file. Raises OSError if it cannot be opened."""

    def __init__(self, library: Library, path: str) -> None:
        self._library = library
        opened = library.functions.bpf_object__open_file(os.fsencode(path), None)
        self._pointer = library.check(opened)

    def programs(self) -> Iterator[tuple[str, int]]:
        """Return name and pointer of each program."""
        pointer = None
        while pointer := self._library.functions.bpf_object__next_program(self._pointer, pointer):
            yield self._library.functions.bpf_program__name(pointer).decode(), pointer

    def missed(self, names: Iterable[str]) -> int:
        """Return how often the kernel did not run one of the loaded programs ``names``, since it
        ran already on the same processor.
        """
        call, wanted = self._library.functions.bpf_program__fd, frozenset(names)
        return sum(
            missed_runs(f"/proc/self/fdinfo/{call(pointer)}")
            for name, pointer in self.programs()
            if name in wanted
        )

    def leave_out(self, names: frozenset[str]) -> None:
        """Do not load the programs with these names."""
        for name, pointer in self.programs():
            if name in names:
                self._library.functions.bpf_program__set_autoload(pointer, False)

    def resize(self, name: str, entries: int) -> None:
        """Give the map ``name`` that many entries, or bytes, before it is loaded."""
        call = self._library.functions.bpf_map__set_max_entries
        self._library.check(call(self._find(name), entries))

    def load(self) -> None:
        """Have the kernel check all programs. Raises OSError."""
        self._library.check(self._library.functions.bpf_object__load(self._pointer))

    def map(self, name: str, key: int, value: int) -> Map:
        """Return the map ``name``."""
        return Map(self._library, self._descriptor(name), key, value)

    def ring(self, name: str) -> Ring:
        """Return a reader of the ring ``name``."""
        return Ring(self._library, self._descriptor(name))

    def attach(self, name: str) -> Callable[[], None]:
        """Have the program ``name`` run; return what ends that. Raises OSError."""
        (pointer,) = (pointer for found, pointer in self.programs() if found == name)
        link = self._library.check(self._library.functions.bpf_program__attach(pointer))
        return lambda: self._library.functions.bpf_link__destroy(link)

    def close(self) -> None:
        """Leave nothing of it in the kernel, once no program is attached."""
        self._library.functions.bpf_object__close(self._pointer)

    def _find(self, name: str) -> int:
        call = self._library.functions.bpf_object__find_map_by_name
        return self._library.check(call(self._pointer, name.encode()))

    def _descriptor(self, name: str) -> int:
        call = self._library.functions.bpf_map__fd
        return self._library.check(call(self._find(name)))
