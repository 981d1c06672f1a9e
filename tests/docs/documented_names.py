"""Which names of commands, options, settings and events does a text mention that do not exist?

Invariants:

* A literal that begins with ``tele`` is read by the command line itself, one with ``twistd`` by
  twistd's options and ours.
* A literal that has the form of an option, a setting, a variable of the environment or an event
  has to be one.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from enum import EnumType
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import click
from twisted.application.service import ServiceMaker
from twisted.scripts._twistd_unix import ServerOptions

from tele.cli.main import tele
from tele.config.values import FileConfig
from tele.measures.catalogue import CATALOGUE
from tele.model.event import CODES
from tele.model.resources import LockSpec, Metadata, RoleSpec, UserSpec
from tele.rbac.labels import VOCABULARY
from tele.tap.options import Options
from twisted.plugins import tele_services

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "tele"
#: Options of other programs that pages name, with the program.
FOREIGN_OPTIONS = {
    "--auto-compaction-retention": "etcd",
    "--quota-backend-bytes": "etcd",
    "--norc": "bash",
    "--no-config": "fish",
    "--help": "any program",
    "--seed": "tests/fuzz",
    "--undisturbed": "bench",
    "--against": "bench",
}
#: Names that have the form of a setting and are something else.
FOREIGN_NAMES = {
    "authorized_keys": "sshd",
    "env_prod": "a group of Ansible's",
    "per_caller": "the end of a name",
    "proxy_pass": "nginx",
    "recording_id": "a field of the log",
    "pg_dump": "PostgreSQL",
    "sshd_config": "sshd",
    "user_readenv": "an option of pam_env",
    "user_trust": "an attribute of tele.embed.ssh",
}
_FOREIGN_FORMS = re.compile(r"pam_\w+|process_\w+|test_\w+")
#: What stands for one of several things to type.
PLACEHOLDER = "..."


# -- what there is --------------------------------------------------------------------
@cache
def settings() -> dict[str, Any]:
    """Return the type of each key of the configuration, by its path."""

    def below(cls: type[Any], prefix: str) -> Iterator[tuple[str, Any]]:
        hints = get_type_hints(cls)
        for each in attrs.fields(cls):
            yield f"{prefix}{each.name}", hints[each.name]
            for part in (hints[each.name], *get_args(hints[each.name])):
                if isinstance(part, type) and attrs.has(part):
                    yield from below(part, f"{prefix}{each.name}.")

    return dict(below(FileConfig, ""))


@cache
def resource_fields() -> dict[str, Any]:
    """Return the type of each field of the resources, by its name."""
    found: dict[str, Any] = {}
    waiting: list[type[Any]] = [Metadata, RoleSpec, UserSpec, LockSpec]
    while waiting:
        cls = waiting.pop()
        for name, hint in get_type_hints(cls).items():
            found[name] = hint
            parts = (hint, *get_args(hint))
            waiting += [part for part in parts if isinstance(part, type) and attrs.has(part)]
    return found


@cache
def source_names() -> frozenset[str]:
    """Return what the source calls by a string, the fields of its values, and its modules."""
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        found.add(path.stem)
        tree = ast.parse(path.read_text())
        values = path.relative_to(SOURCE).parts[0] in ("model", "https")
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if id(node) not in docs:
                    found.update(re.split(r"[^A-Za-z0-9_]+", node.value))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and values:
                found.add(node.target.id)
    return frozenset(found | {path.rpartition(".")[2] for path in settings()})


@cache
def options() -> frozenset[str]:
    """Return every option of every command."""

    def of(command: click.Command) -> Iterator[str]:
        context = click.Context(command)
        for parameter in command.get_params(context):
            yield from (*parameter.opts, *parameter.secondary_opts)
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from of(inner)

    ours = {name for name in of(tele) if name.startswith("-")}
    return frozenset(ours | _twistd_options(Options) | _twistd_options(ServerOptions))


def _twistd_options(cls: Any) -> set[str]:
    made = cls()
    return {f"--{name}".rstrip("=") for name in made.longOpt} | {
        f"-{name}" for name in made.shortOpt.replace(":", "")
    }


SERVICES = {each.tapname for each in vars(tele_services).values() if isinstance(each, ServiceMaker)}


# -- commands -------------------------------------------------------------------------
def _parse(words: list[str]) -> None:
    """Let click read a command line as it would, and do nothing. Raises its errors."""
    command: Any = tele
    context: Any = None
    name = "tele"
    while True:
        context = command.make_context(name, list(words), parent=context)
        words = [*context._protected_args, *context.args]
        if not isinstance(command, click.Group) or not words:
            return
        found, command, words = command.resolve_command(context, words)
        name = str(found)


def _without_placeholders(words: list[str]) -> list[str]:
    """Leave out ``...``, and the option that it is the value of."""
    while PLACEHOLDER in words:
        at = words.index(PLACEHOLDER)
        start = at - 1 if at and words[at - 1].startswith("-") else at
        words = [*words[:start], *words[at + 1 :]]
    return words


def command_problem(line: str) -> str:
    """Return why a line that begins with ``tele`` is no command, or nothing.

    A page may name a command without all that it needs, and files that are not here.
    """
    plain = re.split(r"\s{2,}#|\s\|\s|\s>\s?|\)\"?$|\s&&\s|;", " ".join(line.split(" ")))[0]
    plain = re.sub(r"\$\([^)]*\)|<\([^)]*\)", "X", plain.replace("\n", " "))
    words = shlex.split(plain.replace("[", "").replace("]", ""))[1:]
    try:
        _parse(_without_placeholders(words))
    except (click.exceptions.Exit, click.MissingParameter):
        return ""
    except click.UsageError as error:
        message = error.format_message()
        fine = "does not exist" in message or "requires an argument" in message
        return "" if fine else message
    return ""


def twistd_problem(line: str) -> str:
    """Return which service or option of a line with ``twistd`` does not exist, or nothing."""
    words = shlex.split(line)
    words = words[next(n for n, word in enumerate(words) if word.endswith("twistd")) + 1 :]
    known = _twistd_options(ServerOptions)
    for word in words:
        if word in SERVICES:
            known = _twistd_options(Options)
        elif word.startswith("-") and word.partition("=")[0] not in known:
            return f"no option {word}"
        elif word.startswith("tele"):
            return f"no service {word}"
    return ""


# -- literals -------------------------------------------------------------------------
def _setting_problem(path: str) -> str:
    """Check a dotted path: a setting, or an event of the audit, or a file of that form."""
    known = settings()
    paths = (path, f"node.{path}", f"proxy.{path}", f"auth.{path}")
    if any(each in known for each in paths) or path in CODES:
        return ""
    return f"neither a setting nor an event: {path}"


def _value_problem(path: str, value: str) -> str:
    """Check ``key: value`` where the key takes one of several words."""
    fields = [hint for where, hint in settings().items() if f".{where}".endswith(f".{path}")]
    fields += [hint for name, hint in resource_fields().items() if name == path]
    if not fields:  # a field of an event, or of an answer of the API
        return "" if path in source_names() else f"no setting or field {path}"
    words: list[set[str]] = [
        {str(member.value) for member in list[Any](part)}
        for hint in fields
        for part in (hint, *get_args(hint))
        if isinstance(part, EnumType)
    ]
    wrong = len(words) == len(fields) and re.fullmatch(r"[a-z-]+", value)
    if wrong and not any(value in each for each in words):
        return f"{path} cannot be {value}"
    return ""


_FILES = "yaml|sqlite|sqlite-wal|sqlite-shm|json|jsonl|reserve"
_ROOTS = "auth|proxy|node|log|join|penalties|https_cert"


def literal_problem(literal: str) -> str:
    """Return what a literal names that does not exist, or nothing."""
    text = " ".join(literal.split())
    if re.match(r"tele (?![=:])", text):
        return command_problem(text)
    if re.match(r"(?:/\S*/)?twistd ", text):
        return twistd_problem(text)
    if found := re.fullmatch(r"(--[a-z][a-z-]*)(?:[ =].*)?", text):
        fine = found[1] in options() or found[1] in FOREIGN_OPTIONS
        return "" if fine else f"no option {found[1]}"
    if re.fullmatch(r"TELE_[A-Z_]+", text):
        return "" if text in source_names() else f"no variable {text}"
    found = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)*): (\S.*)", text)
    if found is not None and found[1] != "tele":  # that is a message
        return _value_problem(found[1], found[2])
    if re.fullmatch(rf"[a-z.]+\.(?:{_FILES})(?:\.\w+)?", text):
        return ""
    if re.fullmatch(rf"(?:{_ROOTS})(?:\.[a-z_]+)+", text):
        return _setting_problem(text)
    prefixes = {name.partition(".")[0] for name in CODES}
    if re.fullmatch(r"[a-z]+\.[a-z_]+", text) and text.partition(".")[0] in prefixes:
        fine = text in CODES or text in dict(VOCABULARY)  # of node_labels_expression
        return "" if fine else f"no event {text}"
    if re.fullmatch(r"[a-z]+(?:_[a-z0-9]+)+", text):
        foreign = text in FOREIGN_NAMES or _FOREIGN_FORMS.fullmatch(text)
        known = text in source_names() or text in CATALOGUE or foreign
        return "" if known else f"nothing is called {text}"
    return ""


def literals(text: str) -> Iterator[str]:
    """Yield the inline literals of a page."""
    outside = re.sub(r"(?m)^\.\. code-block::.*$", "", text)
    yield from re.findall(r"``([^`]+)``", outside)


def lines_to_type(text: str) -> Iterator[str]:
    """Yield the lines of a page's blocks that begin with ``tele``."""
    for line in text.splitlines():
        if match := re.match(r"    \s*(?:\$ |# |sudo )*(tele [^=:].*)$", line):
            yield match[1]


def problems(text: str) -> list[str]:
    """Return what a page names that does not exist."""
    found = [(each, literal_problem(each)) for each in literals(text)]
    found += [(line, command_problem(line)) for line in lines_to_type(text)]
    return [f"{literal}: {problem}" for literal, problem in found if problem]


def help_problems(text: str) -> list[str]:
    """Return what a text of ``--help`` or a message names that does not exist."""
    quoted = re.findall(r"(?<!`)`(tele [^`]+)`(?!`)", text)
    named = re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"`[^`]*`", "", text))
    found = [(each, command_problem(each)) for each in quoted]
    found += [(each, "" if each in options() else "no such option") for each in named]
    return [f"{literal}: {problem}" for literal, problem in found if problem]
