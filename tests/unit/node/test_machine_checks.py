"""A machine is checked for a node before one is started: what fails, what is limited, and why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tele.model.addresses import Address
from tele.node import machine_checks
from tele.node.kernel_checks import kernel_version, tracing_problem
from tele.node.machine_checks import Check, Outcome, Wanted, check_machine, clock_synchronized


def checked(name: str, wanted: Wanted) -> Check:
    """Return what is said of one thing."""
    (found,) = [each for each in check_machine(wanted) if each.name == name]
    return found


def test_nothing_fails_that_is_not_asked_for() -> None:
    """A machine without PAM, cgroups or sudo still runs a node that is configured to use none."""
    found = check_machine(Wanted())
    assert {each.outcome for each in found} <= {Outcome.OK, Outcome.LIMITED}
    names = [
        "account",
        "PAM",
        "cgroups",
        "sudo",
        "utmp",
        "file limit",
        "sftp",
        "X11",
        "clock",
        "BPF",
    ]
    assert [each.name for each in found] == names
    assert all(each.found for each in found)
    assert all(
        each.advice for each in found if each.outcome is Outcome.LIMITED and each.name != "clock"
    )


def test_a_service_of_pam_that_is_missing_fails() -> None:
    """It is what every session of the node would fail with, and the advice names the file."""
    found = checked("PAM", Wanted(pam="no-such-service"))
    assert found.outcome is Outcome.FAILED
    assert "/etc/pam.d/no-such-service" in found.advice or "libpam" in found.advice


def test_groups_that_are_not_there_fail_only_if_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only kill_leftovers cannot do without them."""
    monkeypatch.setattr(machine_checks, "own_group", lambda: None)
    assert checked("cgroups", Wanted()).outcome is Outcome.LIMITED
    assert checked("cgroups", Wanted(kill_leftovers=True)).outcome is Outcome.FAILED


def test_a_folder_of_sudoers_that_is_not_read_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lines of roles would be written there, and give nothing."""
    monkeypatch.setattr(machine_checks, "find_tool", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine_checks, "SUDOERS", str(tmp_path / "sudoers"))
    (tmp_path / "sudoers").write_text("root ALL=(ALL) ALL\n# @includedir /etc/sudoers.d\n")
    wanted = Wanted(accounts=True, sudoers=True)
    assert checked("sudo", wanted).outcome is Outcome.FAILED
    (tmp_path / "sudoers").write_text("root ALL=(ALL) ALL\n@includedir /etc/sudoers.d\n")
    assert checked("sudo", wanted).outcome is Outcome.OK


def test_a_port_that_another_program_has_fails() -> None:
    """The same, free, is fine, and is free afterwards."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        wanted = Wanted(listen=Address("127.0.0.1", port))
        found = checked(f"port {port}", wanted)
        assert (found.outcome, "Address already in use" in found.found) == (Outcome.FAILED, True)
    assert checked(f"port {port}", wanted).outcome is Outcome.OK
    assert checked(f"port {port}", wanted).outcome is Outcome.OK


def test_the_port_of_the_node_that_runs_is_no_failure(tmp_path: Path) -> None:
    """A check beside a running node does not report the node itself."""
    code = (
        "import sys; from pathlib import Path; from tele.data_dir import DataDirLock;"
        "DataDirLock(Path(sys.argv[1]), 'node'); print('locked', flush=True); sys.stdin.read()"
    )
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        wanted = Wanted(listen=Address("127.0.0.1", port), data_dir=tmp_path)
        with subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as node:  # fmt: skip
            assert node.stdout is not None
            assert node.stdout.readline() == "locked\n"
            assert checked(f"port {port}", wanted).outcome is Outcome.OK
            node.communicate()
        assert checked(f"port {port}", wanted).outcome is Outcome.FAILED


def test_an_address_that_does_not_answer_fails() -> None:
    """And the advice names the key."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]  # bound, and nothing listens
        wanted = Wanted(dials=(("auth", Address("127.0.0.1", port)),))
        found = checked("auth", wanted)
        assert (found.outcome, "node.join.auth" in found.advice) == (Outcome.FAILED, True)
        listening.listen(1)
        assert checked("auth", wanted).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.0-1-amd64", (6, 18)),
        ("5.4.0", (5, 4)),
        ("6", (6, 0)),
        ("6.1+deb", (6, 0)),
        ("", (0, 0)),
    ],
)
def test_releases_are_read(release: str, version: tuple[int, int]) -> None:
    """A kernel with a strange name counts as older, and never ends the check."""
    assert kernel_version(release) == version


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another account: needs root")
def test_an_ordinary_account_is_told_that_it_cannot_trace() -> None:
    """Without privileges there are no BPF programs, whatever the kernel has."""
    code = (
        "import os; from tele.node.kernel_checks import tracing_problem;"
        "os.setgid(65534); os.setuid(65534); print(tracing_problem()[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip()
    problem, advice = tracing_problem()
    assert not problem or advice


def test_the_clock_is_asked_of_the_kernel() -> None:
    """The answer is one of the kernel's, or none."""
    assert clock_synchronized() in (True, False, None)
