"""``tele node check`` on this machine: what is printed, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

from tele_command import Tele, free_port

FILE = """
version: v1
data_dir: state
node:
  listen: 127.0.0.1:{port}
  pam: {pam}
  join: {{auth: "127.0.0.1:{auth}", ca_pin: "sha256:{pin}"}}
"""


def test_a_configuration_is_checked_against_the_machine(tmp_path: Path) -> None:
    """What it asks for and the machine has not is the exit status 1, with advice."""
    tele = Tele(tmp_path)
    file = tmp_path / "node.yaml"
    file.write_text(
        FILE.format(port=free_port(), pam="no-such-service", auth=free_port(), pin="00" * 32)
    )
    shown = tele.run("node", "check", "--config", file, status=1).stdout
    assert "failed  PAM: " in shown
    assert "failed  auth: cannot connect" in shown
    found = json.loads(
        tele.run("node", "check", "--config", file, "--format", "json", status=1).stdout
    )
    assert {each["name"]: each["outcome"] for each in found}["PAM"] == "failed"
    assert set(found[0]) == {"name", "outcome", "found", "advice"}
    assert not (tmp_path / "state").exists()


def test_a_file_without_a_node_is_an_error(tmp_path: Path) -> None:
    """Auth's file says nothing of what a node needs."""
    (tmp_path / "auth.yaml").write_text("version: v1\nauth: {cluster_name: example}\n")
    done = Tele(tmp_path).run("node", "check", "--config", tmp_path / "auth.yaml", status=None)
    assert done.returncode != 0
    assert "there is no section node" in done.stderr
