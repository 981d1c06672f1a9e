"""The nodes as an inventory for Ansible, in the JSON form of inventory scripts.

Invariants:

* Nodes choose their labels, and Ansible evaluates ``{{ }}``: every text is marked
  ``__ansible_unsafe``; names of hosts and groups, and keys, which cannot be marked, have no special
  characters.
* A node is in the groups of its own labels only: two labels that would give the same group name
  get two groups.
"""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from tele.cli.home import is_name
from tele.cli.output import print_notice
from tele.errors import quoted

#: Keys by which Ansible's JSON marks the type of an object.
_ANSIBLES_OWN = "__ansible"

Label = tuple[str, str]


def inventory(hosts: Sequence[Mapping[str, Any]], cluster: str, configuration: str) -> object:
    """Return the inventory of ``hosts`` (in JSON form), with a group for each label.

    ``configuration`` is the file of the cluster for OpenSSH.
    """
    variables: dict[str, object] = {}
    members: dict[Label, list[str]] = defaultdict(list)
    for host in hosts:
        if not is_name(host["name"]):
            print_notice(f"left out: {quoted(host['name'])} cannot be the name of a node")
            continue
        name = f"{host['name']}.{cluster}"
        labels = dict(_labels(host))
        variables[name] = {
            "ansible_ssh_common_args": _unsafe(f"-F {shlex.quote(configuration)}"),
            "tele_host_id": _unsafe(host["id"]),
            "tele_labels": {key: _unsafe(value) for key, value in labels.items()},
            "tele_status": _unsafe(host["status"]),
        }
        for label in labels.items():
            members[label].append(name)
    groups = {name: {"hosts": members[label]} for label, name in _group_names(members).items()}
    return {"_meta": {"hostvars": variables}, "all": {"hosts": list(variables)}, **groups}


def _labels(host: Mapping[str, Any]) -> Iterator[Label]:
    for key, value in host["labels"].items():
        if key.startswith(_ANSIBLES_OWN) or "{" in key:
            print_notice(
                f"left out: Ansible could not take the label {quoted(key)} of {host['name']}"
            )
        else:
            yield key, value


def _unsafe(text: str) -> dict[str, str]:
    return {"__ansible_unsafe": text}


def _group_names(labels: Mapping[Label, object]) -> dict[Label, str]:
    """Return the name of each label's group, ``env_prod``; each name once."""
    wanted: dict[str, list[Label]] = defaultdict(list)
    for label in labels:
        wanted[re.sub(r"[^A-Za-z0-9]", "_", "_".join(label))].append(label)
    names: dict[Label, str] = {}
    for name, several in wanted.items():
        for label in several:
            if len(several) > 1:
                digest = sha256("=".join(label).encode("utf-8", "surrogatepass")).hexdigest()[:8]
                names[label] = f"{name}_{digest}"
                print_notice(
                    f"several labels would be the group {name}: {quoted(label)} is {names[label]}"
                )
            else:
                names[label] = name
    return names
