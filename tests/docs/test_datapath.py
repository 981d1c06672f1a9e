"""The page on the way of a session names every file that a real, recorded session passes.

A cluster whose processes note the files of which they run functions (``call_trace``) serves two
sessions on a terminal, through a proxy: directly, and through a tunnel. What runs for both of them
is what a session passes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import define

from document_blocks import ROOT
from three_processes import BIN, Cluster, make_cluster, wait_for

TRACER = Path(__file__).parent / "call_trace"
PAGE = ROOT / "docs" / "datapath.rst"
PARTS = ("auth", "proxy", "node")
#: Folders that the page may name in place of their files: values and their forms.
FOLDERS = {"src/tele/model/"}
#: Files of steps that these sessions do not take, with the step.
NOT_TAKEN = {
    "src/tele/plugins/kernel_tracing.py": "a role with enhanced_recording",
    "src/tele/plugins/kernel_records.py": "a role with enhanced_recording",
    "src/tele/rbac/predicates.py": "a role with an expression or a template with a function",
    "src/tele/rbac/windows.py": "a role with valid_times",
    "src/tele/rbac/joining.py": "another user joins",
    "src/tele/sessions/join_runner.py": "another user joins",
    "src/tele/terminal/watching.py": "another user joins",
    "src/tele/spawner/traced.py": "a session whose programs are traced",
    "src/tele/store/postgres.py": "a store in PostgreSQL",
    "src/tele/store/postgres_session.py": "a store in PostgreSQL",
    "src/tele/store/etcd.py": "a store in etcd",
    "src/tele/store/etcd_session.py": "a store in etcd",
    "src/tele/store/etcd_client.py": "a store in etcd",
    "src/tele/recording/recovery.py": "after a crash",
    "src/tele/recording/leftovers.py": "after a crash",
    "src/tele/cli/player.py": "a replay on a terminal",
    "src/tele/cli/positions.py": "a replay on a terminal",
    "src/tele/cli/searching.py": "a replay on a terminal",
    "src/tele/cli/view.py": "a replay on a terminal",
    "src/tele/terminal/emulator.py": "a replay on a terminal",
    "src/tele/recording/follow.py": "a replay of a session that runs",
    "src/tele/recording/seek.py": "a replay from a later time",
    "src/tele/recording/local_index.py": "a replay of a file",
    "src/tele/recording/index_forks.py": "an index, in an isolated interpreter",
    "src/tele/terminal/dump.py": "an index",
    "src/tele/recording/capture.py": "a command without a terminal",
    "src/tele/rbac/replacing.py": "a role that replaces parts of a trait",
    **{
        f"src/tele/{package}/{name}.py": step
        for package, names, step in (
            (
                "recording/archives/s3",
                (
                    "archive bucket catalogue credentials errors landing location"
                    " packs sender transport uploads"
                ),
                "an archive in a bucket",
            ),
            ("snapshots", "builder ghostty prompts terminals text", "an index"),
            ("tape", "index placed sealed_index", "an index"),
            ("sessions", "transfer_record", "a file transfer"),
            (
                "transfers",
                "choosing content observer rsync scp sftp sftp_files sftp_packets",
                "a file transfer",
            ),
        )
        for name in names.split()
    },
}
#: The section with the files of sessions that end at a proxy: those of this test pass through it.
ELSEWHERE = "Where a proxy records"
#: Files of periodic work, which may run during both sessions on a slow machine.
PERIODIC = {
    "src/tele/audit/heads.py",
    "src/tele/auth/heads.py",
    "src/tele/auth/issuing.py",
    "src/tele/auth/operations/certificates.py",
    "src/tele/auth/operations/hosts.py",
    "src/tele/auth/operations/joining.py",
    "src/tele/auth/streams.py",
    "src/tele/certs/issue.py",
    "src/tele/certs/names.py",
    "src/tele/certs/rotation.py",
    "src/tele/embed/proxy.py",
    "src/tele/https/api_errors.py",
    "src/tele/https/stream.py",
    "src/tele/membership/announcing.py",
    "src/tele/membership/enrolment.py",
    "src/tele/membership/heads.py",
    "src/tele/membership/loops.py",
    "src/tele/membership/renewal.py",
    "src/tele/membership/reviewing.py",
    "src/tele/node/presence.py",
    "src/tele/plugins/not_tracing.py",
    "src/tele/proxy/terminating/probes.py",
    "src/tele/routing/peers.py",
    "src/tele/tunnel/agents.py",
    "src/tele/tunnel/proxy_choice.py",
}


def named(text: str) -> set[str]:
    """The files and folders that a page names."""
    return set(re.findall(r"src/tele/[\w/]+(?:\.py|/(?!\w))", text))


def missing(required: set[str], text: str) -> list[str]:
    """Which of ``required`` a page does not name."""
    names = named(text)
    folders = tuple(names & FOLDERS)
    return sorted(path for path in required - names if not path.startswith(folders))


@define
class Trace:
    """A cluster whose processes note what they run."""

    folder: Path
    cluster: Cluster
    #: The recording of the last session on a terminal.
    of_terminal: str = ""

    def files(self, *parts: str, start: dict[str, int] | None = None) -> set[str]:
        """What ``parts`` ran, since their notes had the sizes ``start``."""
        found = set()
        for part in parts:
            text = self.notes(part).read_text()[(start or {}).get(part, 0) :]
            found |= {line.rpartition("/src/")[2] for line in text.splitlines()}
        return {f"src/{path}" for path in found}

    def notes(self, part: str) -> Path:
        """Where a part notes what it runs."""
        return self.folder / f"{part}.calls"

    def session(self) -> set[str]:
        """Hold a session on a terminal, and return what ran until its recording was complete."""
        for part in PARTS:
            self.cluster.processes[part].send_signal(signal.SIGUSR2)
        start = {part: self.notes(part).stat().st_size for part in PARTS}
        before = self.recordings()
        assert b"hello" in self.cluster.ssh("-tt", self.cluster.host, "echo hello").stdout

        def is_complete() -> bool:
            (made,) = self.recordings() - before or {""}
            done = self.cluster.tele("recordings", "verify", made, check=False)
            self.of_terminal = made
            return done.returncode == 0

        wait_for(is_complete, "the recording to be complete")
        return self.files(*PARTS, start=start)

    def recordings(self) -> set[str]:
        """The ids of all recordings."""
        listed = self.cluster.tele("recordings", "ls", "--format", "json").stdout
        return {each["id"] for each in json.loads(listed)}

    def replay(self) -> None:
        """Replay the recording of the last terminal, in a process that notes what it runs."""
        subprocess.run(
            [str(BIN / "tele"), "play", self.of_terminal, "--format", "text"],
            env=self.cluster.environment | traced(self.folder, "play"),
            stdout=subprocess.DEVNULL, check=True, timeout=60,
        )  # fmt: skip


def traced(folder: Path, part: str) -> dict[str, str]:
    """Return the environment in which a process notes what it runs."""
    return {
        "PYTHONPATH": str(TRACER),
        "CALL_TRACE": str(folder / f"{part}.calls"),
        "CALL_TRACE_PYTHON": str(folder / "python"),
    }


def trace(folder: Path, *, tunnel: bool) -> tuple[set[str], set[str]]:
    """Return what two sessions ran both, and all that was run at all."""
    python = folder / "python"
    python.write_text(
        f"#!/bin/sh\nshift 2\nCALL_TRACE={folder}/spawner.calls "
        f'exec {sys.executable} -S {TRACER}/sitecustomize.py "$@"\n'
    )
    python.chmod(0o755)
    prefixes = {
        part: ("env", *(f"{name}={value}" for name, value in traced(folder, part).items()))
        for part in PARTS
    }
    cluster = make_cluster(folder, tunnel=tunnel, prefixes=prefixes)
    try:
        running = Trace(folder, cluster)
        required = (running.session() & running.session()) - PERIODIC
        cluster.ssh(cluster.host, "echo without a terminal")
        running.replay()
        return (
            required | running.files("spawner"),
            running.files(*PARTS, "spawner", "play"),
        )
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """What sessions have to pass, and what was run at all, on both routes."""
    if not shutil.which("ssh"):
        pytest.skip("needs OpenSSH's client")
    direct = trace(tmp_path_factory.mktemp("direct"), tunnel=False)
    tunnel = trace(tmp_path_factory.mktemp("tunnel"), tunnel=True)
    return direct[0] | tunnel[0], direct[1] | tunnel[1]


def test_the_page_names_each_file_that_a_session_passes(
    traces: tuple[set[str], set[str]],
) -> None:
    """A file whose functions run for a session is on the page, in the step where it does."""
    required, _ = traces
    assert len(required) > 100
    absent = missing(required, PAGE.read_text())
    assert not absent, "not on the page:\n" + "\n".join(absent)


@pytest.mark.root
def test_the_page_names_no_other_file(traces: tuple[set[str], set[str]]) -> None:
    """A file that the page names runs for a session, or is listed with the reason."""
    _, ran = traces
    page = PAGE.read_text()
    files = {path for path in named(page) if path.endswith(".py")}
    elsewhere = named(page.partition(f"\n{ELSEWHERE}\n---")[2].partition("\n---")[0])
    assert elsewhere
    idle = sorted(files - ran - set(NOT_TAKEN) - elsewhere)
    assert not idle, "on the page, and not run:\n" + "\n".join(idle)
    assert set(NOT_TAKEN) <= files
    assert all((ROOT / path).exists() for path in PERIODIC)
    assert all((ROOT / path).exists() for path in files)


def test_an_omission_is_found(traces: tuple[set[str], set[str]]) -> None:
    """Without any one of the names the page is incomplete."""
    required, _ = traces
    text = PAGE.read_text()
    for path in sorted(required):
        if not path.startswith(tuple(FOLDERS)):
            assert path in missing(required, text.replace(path, ""))


def test_the_tracer_notes_functions_and_no_imports(tmp_path: Path) -> None:
    """What a module defines while it is imported is no step of a session."""
    report = tmp_path / "calls"
    code = "import tele.model.codec; import tele.text; tele.text.printable('x')"
    environment = {**os.environ, "PYTHONPATH": str(TRACER), "CALL_TRACE": str(report)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert report.read_text().splitlines() == [str(ROOT / "src/tele/text.py")]
