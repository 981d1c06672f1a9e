"""Each program of faults for a short while; by command they run longer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from clocks import clocks
from contents import contents
from full_disks import full_disks
from kill_rounds import kill_rounds
from power_cuts import power_cuts
from recordings import RECORDERS, recordings
from set_clocks import LIBRARIES
from soak import soak

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH")


def test_kills(tmp_path: Path) -> None:
    """Each part is killed once while sessions run: nothing that was acknowledged is lost."""
    assert kill_rounds(tmp_path, 3, random.Random(1), sessions=3)["sessions"] >= 6


@pytest.mark.parametrize("mode", RECORDERS)
def test_recordings(tmp_path: Path, mode: str) -> None:
    """Node, auth and proxy are killed in the middle of sessions: their recordings have what was
    promised, and verify.
    """
    assert recordings(tmp_path, 3, random.Random(1), 3, mode)["sessions"] >= 6


@pytest.mark.parametrize("mode", RECORDERS)
def test_contents(tmp_path: Path, mode: str) -> None:
    """Long lines, binary output, broken UTF-8 and 200 resizes are recorded byte for byte."""
    assert contents(tmp_path, 4, random.Random(1), mode)["shown"] > 16_000_000


@pytest.mark.skipif(not LIBRARIES, reason="faketime is not installed")
@pytest.mark.parametrize("mode", ["node", "proxy"])
def test_clocks(tmp_path: Path, mode: str) -> None:
    """The clocks of the recorder and of another part are set by an hour, both ways: recordings have
    what was promised, and verify.
    """
    assert clocks(tmp_path, 4, random.Random(1), 1, mode)["sessions"] >= 4


@pytest.mark.root
def test_power_cuts(tmp_path: Path) -> None:
    """The power of each part is cut once: what was acknowledged is on its disk."""
    assert power_cuts(tmp_path, 3, random.Random(1), sessions=2)["sessions"] >= 2


@pytest.mark.root
@pytest.mark.parametrize("mode", ["node", "proxy"])
def test_full_disks(tmp_path: Path, mode: str) -> None:
    """The disk of each part is full for a while: users log in, commands on a connection from before
    answer, and nothing is lost.
    """
    assert full_disks(tmp_path, 3, random.Random(1), 2, mode)["sessions"] >= 4


def test_soak(tmp_path: Path) -> None:
    """A little of everything: no part grows, and nothing is lost."""
    assert soak(tmp_path, 15, random.Random(1))["events"] > 20
