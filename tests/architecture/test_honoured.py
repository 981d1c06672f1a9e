"""Every key, option and field that can be given is read; the documents' configurations load."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import click
import pytest

from document_blocks import all_blocks
from tele.cli.main import tele
from tele.config.document import read_documents
from tele.config.reading import parse as parse_config
from tele.config.values import FileConfig
from tele.model.access_tests import AccessTests
from tele.model.actions import ForwardRules, TransferRules
from tele.model.api.table import OPERATIONS
from tele.model.codec import from_json
from tele.model.resources import Cluster, Conditions, Lock, LockTarget, Role, RoleOptions, User
from tele.rbac.presets import check_role

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "tele"


@cache
def attributes_read(*folders: str) -> frozenset[str]:
    """Names of attributes that are read anywhere in ``folders`` (of the source)."""
    found = set()
    for folder in folders:
        for path in (SOURCE / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    found.add(node.attr)
    return frozenset(found)


# -- configuration --------------------------------------------------------------------
def keys_of(cls: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give the place and the name of every key below a section."""
    hints = get_type_hints(cls)
    for field in attrs.fields(cls):
        yield f"{prefix}{field.name}", field.name
        for part in (hints[field.name], *get_args(hints[field.name])):
            if isinstance(part, type) and attrs.has(part):
                yield from keys_of(part, f"{prefix}{field.name}.")


@pytest.mark.parametrize(
    ("place", "name"), sorted(set(keys_of(FileConfig))), ids=lambda value: str(value)
)
def test_every_key_of_the_configuration_is_read(place: str, name: str) -> None:
    """A key that is taken from the file is read where parts are made of it.

    ``version`` is read by its check, and decides what all others mean.
    """
    parts = ("auth", "node", "proxy")
    used = attributes_read("embed", "tap", "cli", "plugins", "conch", "model", *parts)
    assert name in used or place == "version", f"{place} is accepted and never read"


# -- requests of the API, and resources -----------------------------------
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_field_of_a_request_is_read(name: str) -> None:
    """Auth reads every field of a request."""
    used = attributes_read("auth", "audit", "rbac")
    request = OPERATIONS[name].request
    assert [f.name for f in attrs.fields(request) if f.name not in used] == []


@pytest.mark.parametrize("cls", [RoleOptions, Conditions, ForwardRules, TransferRules, LockTarget])
def test_every_option_of_a_role_and_target_of_a_lock_is_decided_by(cls: type[Any]) -> None:
    """None of them is only stored."""
    used = attributes_read("rbac", "auth", "node")
    assert [field.name for field in attrs.fields(cls) if field.name not in used] == []


# -- the command line -----------------------------------------------------------------
def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every command that does something."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def arguments_unread(path: Path) -> list[str]:
    """Arguments of a file's commands that their functions never read."""
    unread = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef):
            continue
        if not any("click.command" in ast.unparse(each) for each in node.decorator_list):
            continue
        read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        named = (*node.args.args, *node.args.kwonlyargs)
        unread += [f"{node.name}: {each.arg}" for each in named if each.arg not in read]
    return unread


@pytest.mark.parametrize("path", sorted((SOURCE / "cli").glob("*.py")), ids=lambda p: p.stem)
def test_every_option_of_a_command_is_read(path: Path) -> None:
    """No option is parsed and then ignored."""
    assert arguments_unread(path) == []


def test_every_command_has_a_line_of_help() -> None:
    """Walking them all imports them all: none is named that is not there."""
    assert [words for words, command in commands(tele) if not command.help] == []


def configurations() -> list[tuple[str, str]]:
    """Return the blocks of the documents that are YAML of ours, with where they are."""
    found = [block for block in all_blocks() if block.is_configuration]
    return [(f"{block.page}:{block.line}", block.text + "\n") for block in found]


@pytest.mark.parametrize(("where", "block"), configurations())
def test_every_documented_configuration_and_resource_is_accepted(where: str, block: str) -> None:
    """What a page shows to write into a file is what is read; ``...`` stands for something.

    Pieces of a file are read within one.
    """
    block = re.sub(r'"?sha256:\.\.\."?', '"sha256:' + "0" * 64 + '"', block)
    if "kind: " in block:
        for document in read_documents(block, where):
            kinds: dict[str, Any] = {
                "role": Role, "user": User, "lock": Lock, "cluster": Cluster,
                "access_tests": AccessTests,
            }  # fmt: skip
            resource: Any = from_json(kinds[document.plain["kind"]], document.plain)
            if isinstance(resource, Role):
                check_role(resource)
        return
    if "version: v1" not in block:
        auth = "" if re.search("^auth:", block, re.M) else "auth: {cluster_name: c}\n"
        block = f"version: v1\n{auth}{block}"
    parse_config(block, where, Path("/etc/tele"))
