"""The inventory for Ansible, of nodes that try to run commands on the machine that reads it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tele.cli.inventory import inventory
from tele_command import BIN

RUN = "{{ lookup('pipe', 'touch %s') }}"


def host(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"id": f"id-{name}", "name": name, "labels": labels, "status": "online"}


def made(*hosts: dict[str, Any]) -> dict[str, Any]:
    built: Any = json.loads(json.dumps(inventory(hosts, "c", "/home/a person/ssh_config")))
    return dict(built)


def texts(value: Any) -> Iterator[str]:
    """Give all texts that Ansible would take for templates."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, dict) and set(value) != {"__ansible_unsafe"}:
        for each in value.values():
            yield from texts(each)


def test_no_value_of_a_node_is_a_template() -> None:
    """Every text is marked unsafe, and what cannot be marked is made of harmless characters."""
    evil = {"a": "{{ 1 }}", "{{ k }}": "v", "__ansible_vault": "v", "__ansible_unsafe": "v",
            "sp ace": "\u202e\n{% x %}", "ok/key": "ok"}  # fmt: skip
    said = made(host("web1", evil), host("{{ name }}", {}), host("-o", {}))
    variables = said["_meta"]["hostvars"]
    assert list(texts(variables)) == []
    assert said["all"] == {"hosts": ["web1.c"]}
    assert set(variables["web1.c"]["tele_labels"]) == {"a", "sp ace", "ok/key"}
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in said)
    assert said["ok_key_ok"] == {"hosts": ["web1.c"]}


def test_a_node_cannot_join_the_group_of_a_label_that_it_has_not() -> None:
    """Labels that would make the same group make two, so that a play for one label reaches no
    node that chose another one to be taken for it.
    """
    said = made(host("db", {"tier": "app_prod"}), host("evil", {"tier_app": "prod"}))
    groups = {name: each["hosts"] for name, each in said.items() if name not in ("_meta", "all")}
    assert "tier_app_prod" not in groups
    assert sorted(groups.values()) == [["db.c"], ["evil.c"]]


def test_paths_with_spaces_stay_one_word() -> None:
    """Ansible splits ssh's arguments as a shell does."""
    arguments = made(host("web1", {}))["_meta"]["hostvars"]["web1.c"]["ansible_ssh_common_args"]
    assert arguments == {"__ansible_unsafe": "-F '/home/a person/ssh_config'"}


@pytest.mark.parametrize("variable", ["tele_labels", "tele_labels.a", "groups", "hostvars"])
def test_ansible_itself_runs_nothing(tmp_path: Path, variable: str) -> None:
    """The real Ansible prints what a node put between braces, and does not do it."""
    mark = tmp_path / "was-run"
    run = RUN % mark
    data = made(host("web1", {"a": run, "b": "{% if 1 %}x{% endif %}", run: "v"}))
    local = {"ansible_connection": "local", "ansible_python_interpreter": "auto_silent"}
    data["_meta"]["hostvars"]["web1.c"].update(local)
    (tmp_path / "inventory.json").write_text(json.dumps(data))
    script = tmp_path / "inventory"
    script.write_text('#!/bin/sh\ncat "$(dirname "$0")/inventory.json"\n')
    script.chmod(0o700)
    done = subprocess.run(
        [str(BIN / "ansible"), "-i", str(script), "all", "-m", "debug", "-a",
         f"msg={{{{ {variable} }}}}"],
        env={**os.environ, "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not mark.exists()
    if variable != "groups":
        assert "lookup(" in done.stdout
