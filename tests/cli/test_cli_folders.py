"""A folder that was given is not changed before it is known to be one's own."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tele_command import Tele, free_port


def listed(path: Path) -> tuple[int, list[str]]:
    return stat.S_IMODE(path.stat().st_mode), sorted(os.listdir(path))


def test_up_takes_no_shared_folder(tele: Tele, tmp_path: Path) -> None:
    """``tele up --dir /tmp`` is refused, and the mode of /tmp stays."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    listen = f"127.0.0.1:{free_port()}"
    said = tele.fails(2, "up", "--dir", shared, "--listen", listen)
    assert "is shared: others can write to it (mode 1777)" in said
    assert "choose another folder with --dir" in said
    assert "chmod" not in said  # that would break other programs
    assert listed(shared) == (0o1777, [])


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_up_takes_no_folder_of_something_else(tele: Tele, tmp_path: Path, mode: int) -> None:
    """A home, or a project: its files are named, and nothing of it is changed."""
    used = tmp_path / "project"
    used.mkdir()
    (used / "README").touch()
    used.chmod(mode)
    said = tele.fails(2, "up", "--dir", used, "--listen", f"127.0.0.1:{free_port()}")
    assert "'README'" in said
    assert listed(used) == (mode, ["README"])


@pytest.mark.parametrize("mode", [0o1777, 0o770, 0o755])
def test_certificates_go_into_no_folder_of_others(tele: Tele, tmp_path: Path, mode: int) -> None:
    """``TELE_HOME=/tmp`` is refused as it is, before there is a key in it."""
    from tele.cli.home import Home

    used = tmp_path / "used"
    used.mkdir()
    (used / "README").touch()
    used.chmod(mode)
    with pytest.raises(Exception, match="set TELE_HOME to a folder of yours"):
        Home(used).write(used / "c" / "alice", "a key")
    assert listed(used) == (mode, ["README"])


@pytest.mark.parametrize("part", ["tele-auth", "tele-node"])
def test_a_service_takes_no_shared_data_dir(tele: Tele, tmp_path: Path, part: str) -> None:
    """With the mode, and what to do; nothing is made in it."""
    import subprocess

    from tele_command import BIN

    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    config = tmp_path / "tele.yaml"
    config.write_text(
        f"version: v1\ndata_dir: {shared}\n"
        f"auth: {{cluster_name: c, listen: '127.0.0.1:{free_port()}'}}\n"
        f"node: {{name: n, join: {{auth: '127.0.0.1:1', ca_pin: 'sha256:{'0' * 64}'}}}}\n"
    )
    done = subprocess.run(
        [str(BIN / "twistd"), "-n", "--pidfile=", part, "--config", str(config)],
        env=tele.environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "others can write to it (mode 1777)" in done.stdout + done.stderr
    assert listed(shared) == (0o1777, [])
