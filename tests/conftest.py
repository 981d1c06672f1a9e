"""What holds for every test: no skips in CI, root tests only as root, nothing left behind."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from etcd_server import EtcdCluster, program, running_etcd
from postgres_server import PostgresServer, programs, running_server
from three_processes import Cluster, make_cluster

# How long an example takes says how loaded the machine is, and nothing else; and the first
# examples of a failure are kept nowhere, so that two runs at once do not meet.
hypothesis.settings.register_profile("tele", deadline=None, database=None)
hypothesis.settings.load_profile("tele")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster of three processes, for all tests of a file that requests one."""
    running = make_cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for all tests of a process."""
    if programs() is None:
        pytest.skip("PostgreSQL's server is not installed")
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def etcd() -> Iterator[EtcdCluster]:
    """A member of etcd for all tests of a process."""
    if program() is None:
        pytest.skip("etcd is not installed")
    with running_etcd() as cluster:
        yield cluster


#: Folders whose files take long, longest first. Workers that share a run begin with these: a long
#: file that begins last has all others wait for it.
LONG = ("faults", "docs", "interop", "live", "cli", "wired")


def _place(item: pytest.Item) -> int:
    """Return the place of an item's folder in :data:`LONG`, or the number after the last."""
    places = (n for n, folder in enumerate(LONG) if item.nodeid.startswith(f"tests/{folder}/"))
    return next(places, len(LONG))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``root`` are skipped without root, ``ordinary`` ones are left out for root."""
    if hasattr(config, "workerinput"):
        items.sort(key=_place)
    if os.geteuid() == 0:
        ordinary = [item for item in items if item.get_closest_marker("ordinary")]
        if ordinary:
            config.hook.pytest_deselected(items=ordinary)
            items[:] = [item for item in items if item not in ordinary]
        return
    skip = pytest.mark.skip(reason="needs root: real accounts and privileges")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(skip)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failed one: that machine is there to run everything."""
    report = yield
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    return report


#: The lock of ``pyenv rehash``, which startup files of a shell often run: a session that is killed
#: meanwhile leaves it, and each later login shell of the account waits a minute for it.
SHELL_LOCK = Path.home() / ".pyenv/shims/.pyenv-shim"
#: Seconds that a rehash may take on a busy machine.
REHASH_SECONDS = 10


@pytest.fixture(autouse=True)
def _no_shell_lock_left() -> None:
    """A killed session of an earlier test makes no login of a later one wait."""
    try:
        if time.time() - SHELL_LOCK.stat().st_mtime > REHASH_SECONDS:
            SHELL_LOCK.unlink(missing_ok=True)
    except FileNotFoundError:
        return


def _children(pid: int) -> set[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return {int(child) for child in listed.read_text().split()} if listed.exists() else set()


#: Fixtures whose processes are for several tests.
SHARED = {"cluster", "postgres", "etcd"}


@pytest.fixture(autouse=True)
def _no_processes_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test ends the processes that it starts."""
    if SHARED & set(request.fixturenames):  # their processes may be started again by a test
        yield
        return
    before = _children(os.getpid())
    yield
    deadline = time.monotonic() + 10  # what was signalled may still be ending
    while left := {pid for pid in _children(os.getpid()) - before if _is_running(pid)}:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert not left, f"{request.node.nodeid} left processes: {sorted(map(_command, left))}"


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return str(pid)
