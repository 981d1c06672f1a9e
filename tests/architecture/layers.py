"""The layers of the source, and what is found to break them in a tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Final

#: Layers of packages. A file imports only from its own package or from packages of lower layers.
LAYERS: Final[Mapping[str, int]] = {
    "errors": 0,
    "text": 0,
    "_version": 0,
    "spawner": 0,
    "tracer": 0,
    "reactor": 0,
    "measures": 0,
    "model": 1,
    "terminal": 1,
    "private_files": 1,
    "data_dir": 1,
    "durable_files": 1,
    "log_stream": 1,
    "interfaces": 2,
    "wire": 2,
    "rbac": 2,
    "tape": 2,
    "admission": 2,
    "certs": 3,
    "snapshots": 3,
    "transfers": 3,
    "log": 4,
    "loop": 5,
    "capacity": 6,
    "workers": 6,
    "call_queue": 6,
    "single_flight": 6,
    "wakeup": 6,
    "sockets": 7,
    "store": 7,
    "outbound": 8,
    "metrics": 8,
    "https": 9,
    "audit": 10,
    "conch": 10,
    "recording": 10,
    "membership": 11,
    "tunnel": 11,
    "routing": 12,
    "sessions": 12,
    "auth": 13,
    "node": 13,
    "proxy": 13,
    "web": 13,
    "config": 14,
    "plugins": 14,
    "testing": 14,
    "backups": 14,
    "embed": 15,
    "tap": 16,
    "cli": 16,
}

#: Layers inside of a package, of its own packages.
INNER_LAYERS: Final[Mapping[str, Mapping[str, int]]] = {
    "conch": {
        "transport": 0,
        "connection": 1,
        "session": 2,
        "forwarding": 2,
        "client": 3,
        "server": 3,
        "compat": 4,
    },
}

#: Packages that are programs of their own, which run as root.
PROGRAMS: Final = ("spawner", "tracer")
#: Packages that have no reactor, no clock, no randomness and no log of their own.
CORES: Final = frozenset((
    "errors", "text", "_version", "model", "terminal", "wire", "rbac", "tape", "admission",
    "certs", "measures", "snapshots", "transfers",
))  # fmt: skip
#: What would give a core one of these.
IMPURE_MODULES: Final = frozenset(
    ("twisted", "txaio", "logging", "random", "secrets", "asyncio", "socket", "threading")
)
IMPURE_CALLS: Final = frozenset((
    "os.urandom", "time.time", "time.monotonic", "datetime.now", "datetime.utcnow",
    "datetime.datetime.now", "uuid.uuid4",
))  # fmt: skip

LINES_LIMIT: Final = 500
#: Names that say nothing of what is in a file.
FORBIDDEN_NAMES: Final = frozenset(
    ("util", "utils", "misc", "common", "helpers", "base", "manager")
)


class Tree:
    """The modules below ``source``, which has the folder ``tele``, and what they import."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.paths = {self._name(path): path for path in sorted((source / "tele").rglob("*.py"))}
        self.texts = {name: path.read_text() for name, path in self.paths.items()}
        self.parsed = {name: ast.parse(text) for name, text in self.texts.items()}
        self.imports = {name: list(self._imports(name)) for name in self.paths}

    def planted(self, file: str, text: str) -> Tree:
        """Return the tree with one more file, or with ``text`` at the end of one."""
        tree = copy(self)
        path = self.source / "tele" / file
        name = self._name(path)
        tree.paths = {**self.paths, name: path}
        tree.texts = {**self.texts, name: self.texts.get(name, "") + text}
        tree.parsed = {**self.parsed, name: ast.parse(tree.texts[name])}
        tree.imports = {**self.imports, name: list(tree._imports(name))}
        return tree

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.source).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def _imports(self, name: str) -> Iterator[str]:
        """Modules that ``name`` imports anywhere: in functions and for type checkers, too."""
        for node in ast.walk(self.parsed[name]):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name}: relative import"
                module = node.module or ""
                for alias in node.names:
                    inner = f"{module}.{alias.name}"
                    yield inner if inner in self.paths else module

    def upward_imports(self) -> Iterator[str]:
        """Imports from the same or a higher layer of another package."""
        for name, imported in self._pairs():
            here, there = package_of(name), package_of(imported)
            if here is None or there is None:
                continue
            if here != there:
                if LAYERS[there] >= LAYERS[here]:
                    yield f"{name} imports {imported}"
            elif here in INNER_LAYERS:
                inner, other = name.split(".")[2:3], imported.split(".")[2:3]
                layers = INNER_LAYERS[here]
                if inner and other and inner != other and layers[other[0]] >= layers[inner[0]]:
                    yield f"{name} imports {imported}"

    def _pairs(self) -> Iterator[tuple[str, str]]:
        for name, imports in self.imports.items():
            for imported in imports:
                yield name, imported

    def circles(self) -> Iterator[str]:
        """Modules that import each other, whichever way round and however late."""
        graph = {
            name: [each for each in imports if each in self.paths and each != name]
            for name, imports in self.imports.items()
        }
        done: set[str] = set()
        for start in graph:
            if start not in done:
                yield from _circles_from(start, graph, done)

    def others_in_programs(self) -> Iterator[str]:
        """What a program that runs as root imports besides the standard library and itself."""
        from sys import stdlib_module_names

        for name in self.paths:
            own = package_of(name)
            if own in PROGRAMS:
                for imported in self.imports[name]:
                    top = imported.split(".")[0]
                    if top not in stdlib_module_names and package_of(imported) != own:
                        yield f"{name} imports {imported}"

    def long_files(self) -> Iterator[str]:
        """Files that are too long to be read."""
        for name, text in self.texts.items():
            if (count := len(text.splitlines())) > LINES_LIMIT:
                yield f"{name} has {count} lines"


def _circles_from(start: str, graph: Mapping[str, list[str]], done: set[str]) -> Iterator[str]:
    """Walk depth first, and name each path that ends where it was before."""
    path: list[str] = []
    below: list[Iterator[str]] = [iter((start,))]
    while below:
        module = next(below[-1], None)
        if module is None:
            below.pop()
            if path:
                done.add(path.pop())
        elif module in path:
            yield " -> ".join([*path[path.index(module) :], module])
        elif module not in done:
            path.append(module)
            below.append(iter(graph[module]))


def package_of(name: str) -> str | None:
    """Return the package, or file, directly below ``tele`` that ``name`` is in or is."""
    parts = name.split(".")
    return parts[1] if parts[0] == "tele" and len(parts) > 1 else None
