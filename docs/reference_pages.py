"""Sphinx directives that print commands, configuration and interfaces from the program itself.

``.. tele-commands::`` prints every command with its help and options,
``.. tele-configuration::`` every section with its keys, ``.. tele-interfaces::`` every plugin
point, ``.. tele-metrics::`` the names of numbers, ``.. tele-ssh-algorithms::`` the algorithms of
SSH. The reference cannot differ from the program.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, EnumType
from inspect import cleandoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import attrs
import click
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from zope.interface import Interface
from zope.interface.interface import InterfaceClass, Method

from tele import interfaces
from tele.certs.algorithms import HOST_ALGORITHMS, USER_ALGORITHMS
from tele.cli.lazy import LazyGroup
from tele.cli.main import tele
from tele.conch.client.transport import HOST_CERTIFICATES
from tele.config import values
from tele.config.values import (
    Address,
    Chosen,
    FileConfig,
    MetricsAddress,
    Network,
    Pins,
    Size,
)
from tele.measures.catalogue import CATALOGUE
from tele.outbound.egress import EgressProxy
from tele.wire.ciphers import CIPHERS, MACS, SERVER_CIPHERS
from tele.wire.key_agreement import METHODS, SERVER_METHODS
from tele.wire.negotiation import COMPRESSIONS


class Generated(SphinxDirective):
    """A directive that writes reStructuredText."""

    text: Callable[[], Iterator[str]]

    def run(self) -> list[nodes.Node]:
        """Parse what :attr:`text` yields where the directive stands."""
        lines = "\n".join(type(self).text())
        return self.parse_text_to_nodes(lines, allow_section_headings=True)


# -- commands -------------------------------------------------------------------------
def commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command that is no group, with its full name."""

    def inside(
        group: LazyGroup, context: click.Context, path: str
    ) -> Iterator[tuple[str, click.Command, click.Context]]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if command is None:
                raise LookupError(name)
            under = click.Context(command, info_name=name, parent=context)
            if isinstance(command, LazyGroup):
                yield from inside(command, under, f"{path} {name}")
            else:
                yield f"{path} {name}", command, under

    yield from inside(tele, click.Context(tele, info_name="tele"), "tele")


def command_lines() -> Iterator[str]:
    """Yield the text on every command."""
    for name, command, context in commands():
        yield from (name, "-" * len(name), "")
        usage = " ".join([name, *command.collect_usage_pieces(context)])
        yield from ("::", "", f"    {usage}", "")
        for line in (command.help or "").splitlines():
            yield line.strip().replace("`", "``").replace("*", r"\*")
        yield ""
        for parameter in command.get_params(context):
            record = parameter.get_help_record(context)
            if record is None or isinstance(parameter, click.Argument) or "--help" in record[0]:
                continue
            text = record[1].replace("*", r"\*").replace("`", "``")
            yield from (f"``{record[0]}``", f"    {text or 'See above.'}", "")


# -- configuration --------------------------------------------------------------------
_TYPES: Mapping[Any, str] = {
    str: "text",
    bool: "``true`` or ``false``",
    Address: "``host:port``",
    MetricsAddress: "``host:port`` or ``off``",
    Network: "network",
    int: "number",
    Chosen: "``kind`` or ``kind:arguments``",
    Size: "size (``512MiB``, ``1GiB``)",
    Pins: "``sha256:...``, or a list of them",
    EgressProxy: "``kind://host:port``",
}


def type_name(hint: Any) -> str:
    """Describe in words what a key accepts."""
    if get_origin(hint) is UnionType:
        (hint,) = (each for each in get_args(hint) if each is not NoneType)
    if get_origin(hint) is tuple:
        return f"list of {type_name(get_args(hint)[0])}"
    if get_origin(hint) is Mapping:
        return f"name: {type_name(get_args(hint)[1])}"
    if isinstance(hint, EnumType):
        return listed(list[Any](hint))
    if attrs.has(hint) and hint not in _TYPES:
        return "a section, below"
    return _TYPES.get(hint, {"Path": "path", "timedelta": "length of time"}.get(hint.__name__, ""))


def listed(members: Iterable[Enum]) -> str:
    """List the values."""
    return ", ".join(f"``{member.value}``" for member in members)


def default_of(attribute: Any) -> str:
    """Describe the default of a key."""
    default = attribute.default
    if default is attrs.NOTHING:
        return "Required."
    if default is None or (attrs.has(type(default)) and type(default) not in _TYPES):
        return ""
    if isinstance(default, attrs.Factory) or default == ():  # type: ignore[arg-type]
        return "Default: none."
    if isinstance(default, Enum):
        default = default.value
    if type(default).__name__ == "timedelta":
        from tele.model.codec import format_duration

        default = format_duration(default)
    if isinstance(default, tuple):
        default = ", ".join(str(each) for each in default)
    shown = str(default).lower() if isinstance(default, bool) else default
    return f"Default: ``{shown}``."


def sections() -> Iterator[tuple[str, type]]:
    """Yield every section's name and class, outer ones first."""
    waiting: list[tuple[str, type]] = [("", FileConfig)]
    seen: set[type] = set()
    while waiting:
        name, cls = waiting.pop(0)
        if cls in seen:
            continue
        seen.add(cls)
        yield name, cls
        for key, hint in get_type_hints(cls).items():
            for part in (hint, *get_args(hint)):
                if isinstance(part, type) and attrs.has(part) and part not in _TYPES:
                    waiting.append((f"{name}.{key}".lstrip("."), part))


def configuration_lines() -> Iterator[str]:
    """Yield the text on every section."""
    for name, cls in sections():
        title = f"``{name}``" if name else "The file"
        yield from (title, "-" * len(title), "")
        if cls.__module__ == values.__name__ and cls.__doc__:
            yield from (cls.__doc__.splitlines()[0], "")
        hints = get_type_hints(cls)
        for attribute in attrs.fields(cls):
            meaning = attribute.metadata.get("meaning", "") or _MODEL.get(attribute.name, "")
            usable = attribute.metadata.get("values")
            value = type_name(hints[attribute.name]) if usable is None else listed(usable)
            yield f"``{attribute.name}``: {value}"
            yield f"    {meaning} {default_of(attribute)}".rstrip()
            yield ""


#: Keys whose classes belong to the model, which knows nothing of configuration.
_MODEL = {
    "mode": "Where sessions are recorded; ``off`` is nowhere.",
    "proxy_checks_host_keys": "``true``: host keys are always checked. ``false`` is refused.",
    "proxy_plain_keys": "Whether users log in through proxies that record with clients that know no"
    " host certificates.",
    "sync_end_after": "In a sync mode, how long a session waits for auth before it is ended.",
    "capture_head": "How much of the begin of each stream of a command without a terminal is kept.",
    "capture_tail": "How much of the end of each stream of a command without a terminal is kept.",
}


# -- interfaces -----------------------------------------------------------------------
def described(text: str) -> Iterator[str]:
    """Yield a docstring as a block of its own."""
    yield from ("", *cleandoc(text).splitlines(), "")


def interface_lines() -> Iterator[str]:
    """Yield the text on every plugin point, in the order of the file."""
    for name, interface in vars(interfaces).items():
        if not isinstance(interface, InterfaceClass) or interface is Interface:
            continue
        yield from (name, "~" * len(name))
        yield from described(interface.__doc__ or "")
        for member, what in interface.namesAndDescriptions():
            signature = what.getSignatureString() if isinstance(what, Method) else ""
            yield f"``{member}{signature}``"
            for line in described(what.__doc__ or ""):
                yield f"    {line}".rstrip()
            yield ""


# -- metrics --------------------------------------------------------------------------
def metric_lines() -> Iterator[str]:
    """Yield a table of all names."""
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 42 11 12 35", "")
    yield from ("   * - name", "     - kind", "     - labels", "     - meaning")
    for metric in CATALOGUE.values():
        labels = ", ".join(f"``{label}``" for label in metric.labels) or "none"
        yield f"   * - ``{metric.name}``"
        yield from (f"     - {metric.kind.value}", f"     - {labels}", f"     - {metric.meaning}")
    yield ""


# -- SSH ------------------------------------------------------------------------------
#: What is negotiated, in order of preference: by kind, what a server offers and what a client.
ALGORITHMS: Mapping[str, tuple[tuple[bytes, ...], tuple[bytes, ...]]] = {
    "Key exchange": (SERVER_METHODS, tuple(METHODS)),
    "Host key": (tuple(HOST_ALGORITHMS), HOST_CERTIFICATES),
    "User authentication": (tuple(USER_ALGORITHMS), tuple(USER_ALGORITHMS)),
    "Cipher": (SERVER_CIPHERS, CIPHERS),
    "MAC, for ``aes*-ctr`` only": (MACS, MACS),
    "Compression": (COMPRESSIONS, COMPRESSIONS),
}


def algorithm_lines() -> Iterator[str]:
    """Yield a table of the algorithms."""
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 16 42 42", "")
    yield from ("   * - kind", "     - a server offers", "     - tele as a client offers")
    for kind, sides in ALGORITHMS.items():
        yield f"   * - {kind}"
        for names in sides:
            yield "     - " + ", ".join(f"``{name.decode('ascii')}``" for name in names)
    yield ""


# -- Conch ----------------------------------------------------------------------------
DIFFERENCES = Path(__file__).with_name("conch_differences.toml")


def difference_lines() -> Iterator[str]:
    """Yield each reason why a test of Twisted's does not hold, and those tests."""
    with DIFFERENCES.open("rb") as file:
        differences = tomllib.load(file)["difference"]
    for each in differences:
        yield from described(each["reason"])
        by_class: dict[str, list[str]] = {}
        for name in each["tests"]:
            where, _, test = name.rpartition(".")
            by_class.setdefault(where, []).append(f"``{test}``")
        for where, tests in by_class.items():
            yield from (f"* ``{where}``: {', '.join(tests)}",)
        yield ""


class ConchDifferences(Generated):
    """``.. tele-conch-differences::``."""

    text = staticmethod(difference_lines)


class Algorithms(Generated):
    """``.. tele-ssh-algorithms::``."""

    text = staticmethod(algorithm_lines)


class Interfaces(Generated):
    """``.. tele-interfaces::``."""

    text = staticmethod(interface_lines)


class Metrics(Generated):
    """``.. tele-metrics::``."""

    text = staticmethod(metric_lines)


class Commands(Generated):
    """``.. tele-commands::``."""

    text = staticmethod(command_lines)


class Configuration(Generated):
    """``.. tele-configuration::``."""

    text = staticmethod(configuration_lines)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx of the directives."""
    app.add_directive("tele-commands", Commands)
    app.add_directive("tele-configuration", Configuration)
    app.add_directive("tele-conch-differences", ConchDifferences)
    app.add_directive("tele-interfaces", Interfaces)
    app.add_directive("tele-metrics", Metrics)
    app.add_directive("tele-ssh-algorithms", Algorithms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
