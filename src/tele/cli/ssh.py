"""``tele ssh``, ``tele scp`` and ``tele proxy``: run the system's OpenSSH with our configuration.

Invariants:

* Few imports: ``tele proxy ssh`` runs once for each connection. No Twisted, no attrs.
* The process executes ssh (exec), so exit status, signals and terminal are those of ssh.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from tele.cli.auth_client import valid_profile, warn_clock_behind, which_cluster
from tele.cli.home import CertificateSummary, Home, Profile
from tele.cli.lazy import Lazy, LazyGroup
from tele.cli.node_names import complete_node
from tele.cli.openssh import (
    openssh_program,
    proxy_address,
    this_program,
    write_openssh_files,
)
from tele.cli.trust_age import refresh_soon
from tele.errors import InvalidInput, quoted

#: Options of ssh(1) and scp(1) that take an argument.
_SSH_ARGUMENTS = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
_SCP_ARGUMENTS = frozenset("cDFiJloPSX")
#: With one of these, connections leave as :mod:`tele.outbound.egress` decides.
_PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
#: Options of ssh_config(5) that choose another key.
_IDENTITY = re.compile("(?:IdentityFile|CertificateFile)(?![A-Za-z])", re.IGNORECASE)


class PassThrough(click.Command):
    """A command with the arguments of another program, after ``--cluster`` and the like."""

    OWN = ("--cluster", "--proxy", "--user")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse our own long options at the front; the rest is passed through."""
        own: list[str] = []
        rest = list(args)
        while rest and rest[0].startswith("--") and rest[0] != "--":
            name, equals, _ = rest[0].partition("=")
            if name in ctx.help_option_names:
                break
            if name not in self.OWN:
                raise click.NoSuchOption(name, ctx=ctx)
            count = 1 if equals else 2
            own += rest[:count]
            rest = rest[count:]
        if rest and rest[0] in ctx.help_option_names:
            return super().parse_args(ctx, ["--help"])
        return super().parse_args(ctx, [*own, "--", *rest])


def _complete_ssh(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Complete the destination, but not the remote command after it."""
    words = ctx.params.get("words") or ()
    rest = list(words[split_options(words, _SSH_ARGUMENTS) :])
    # bash splits LOGIN@NODE into LOGIN, @ and NODE, and replaces the last two.
    if rest[1:] == ["@"]:
        incomplete = f"@{incomplete}"
    elif rest and (len(rest) > 1 or not incomplete.startswith("@")):
        return []
    return complete_node(ctx, param, incomplete)


def _complete_scp(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete a local file, or the node of a remote one."""
    nodes = [] if "/" in incomplete else complete_node(ctx, param, incomplete)
    here = CompletionItem(incomplete, type="file")
    return [here, *(CompletionItem(f"{name}:") for name in nodes)]


def target_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which cluster, proxy and user."""
    for name, variable in (
        ("user", "TELE_USER"),
        ("proxy", "TELE_PROXY"),
        ("cluster", "TELE_CLUSTER"),
    ):
        function = click.option(f"--{name}", envvar=variable, help=f"[env: {variable}]")(function)
    return function


def full_name(host: str, cluster: str) -> str:
    """Return ``node.cluster`` for ``node``; a full name is returned unchanged."""
    return host if host.endswith(f".{cluster}") else f"{host}.{cluster}"


def _labelled(where: tuple[str | None, str | None, str | None]) -> Callable[[str], str]:
    """Return a function that finds a node by its labels, by asking auth."""

    def find(selector: str) -> str:
        from tele.cli.auth_client import Where
        from tele.cli.nodes import labelled_node

        return labelled_node(selector, Where(*where))

    return find


def destination(word: str, cluster: str, find: Callable[[str], str]) -> str:
    """Return ``[login@]node`` with the node's full name; also takes ``ssh://``.

    ``find`` returns the id of a node that is given by its labels, ``key=value,key=value``.
    """
    scheme = "ssh://" if word.startswith("ssh://") else ""
    login, at, host = word.removeprefix(scheme).rpartition("@")
    port = ""
    if scheme and (match := re.fullmatch(r"(.*?)(:\d+)?/?", host)):
        host, port = match[1], match[2] or ""
    if not host or host.startswith("-"):
        raise InvalidInput(f"{quoted(word)} has no node name")
    if "=" in host:
        host = find(host.removesuffix(f".{cluster}"))
    return f"{scheme}{login}{at}{full_name(host, cluster)}{port}"


def split_options(words: Sequence[str], with_argument: frozenset[str]) -> int:
    """Return how many of ``words`` are options and their arguments, as getopt(3) sees them."""
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            return position + 1
        if not word.startswith("-") or word == "-":
            return position
        position += 1
        for index, letter in enumerate(word[1:], 2):
            if letter in with_argument:
                if index == len(word):  # the argument is the next word
                    position += 1
                break
    return min(position, len(words))


def _parsed(options: Sequence[str], with_argument: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield the letter of each option and its argument, as getopt(3) sees them."""
    rest = iter(options)
    for word in rest:
        for index, letter in enumerate(word[1:], 2):
            if letter in with_argument:
                yield letter, word[index:] or next(rest, "")
                break
            yield letter, ""


def _refuse_other_identity(options: Sequence[str], with_argument: frozenset[str]) -> None:
    """Raise :class:`InvalidInput` for options that would not have their usual effect.

    With another configuration the node is not found. Another key would be tried after the user's
    certificate, so that its owner would be logged in as that user.
    """
    for letter, argument in _parsed(options, with_argument):
        if letter == "F":
            raise InvalidInput(
                "tele ssh uses its own configuration file (-F); for another one, use ssh -F with a"
                " file\nthat has the output of: tele config"
            )
        if letter == "i" or (letter == "o" and _IDENTITY.match(argument.strip())):
            raise InvalidInput(
                "tele ssh logs in with your own certificate; for another key, use ssh -F with a"
                " file\nthat has the output of: tele config --identity KEY"
            )


def _warn_wrong_login(summary: CertificateSummary, options: Sequence[str], target: str) -> None:
    """Print a warning if the certificate is not for the login: ssh would only be refused."""
    if any(each.startswith(("-l", "-o")) for each in options):
        return  # these may set another login
    given = target.removeprefix("ssh://").rpartition("@")[0]
    if target.startswith("ssh://"):
        from urllib.parse import unquote

        given = unquote(given)  # as ssh does
    login = given or pwd.getpwuid(os.getuid()).pw_name
    if login not in summary.logins:
        from tele.cli.output import print_notice

        have = f"only for {', '.join(summary.logins)}" if summary.logins else "for no login"
        who = f"the certificate of {summary.user}"
        print_notice(f"tele: denied: {who} is not for login {quoted(login)}, {have}")


def execute(program: str, words: Sequence[str]) -> NoReturn:
    """Become ``program``."""
    os.execv(program, [program, *words])  # noqa: S606  (no shell, and the path is absolute)


def ready_for(
    name: str, cluster: str | None, proxy: str | None, user: str | None
) -> tuple[str, Profile, list[str], CertificateSummary]:
    """Return the path of a program of OpenSSH, the cluster, options of ssh for it, and the
    certificate. Raises a :class:`tele.errors.TeleError` without a valid one.
    """
    program = openssh_program(name)
    cluster, proxy = which_cluster(cluster, proxy)
    home = Home.find()
    profile, summary = valid_profile(home, cluster, proxy, user)
    warn_clock_behind(summary)
    refresh_soon(home, profile)
    return program, profile, ["-F", str(write_openssh_files(home, profile))], summary


@click.command(cls=PassThrough, options_metavar="[--cluster C] [SSH OPTIONS]")
@target_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, shell_complete=_complete_ssh)
def ssh(words: tuple[str, ...], cluster: str | None, proxy: str | None, user: str | None) -> None:
    """Log in to a node, or run a command there.

    Takes all options and arguments of ssh(1). The destination is [LOGIN@]NODE; NODE is a name, an
    id, or labels that fit one node: env=prod,role=db.

    The exit status is that of the remote command, or 255 if there was no connection.
    """
    program, profile, configuration, summary = ready_for("ssh", cluster, proxy, user)
    name = profile.cluster
    count = split_options(words, _SSH_ARGUMENTS)
    options, rest = list(words[:count]), list(words[count:])
    _refuse_other_identity(options, _SSH_ARGUMENTS)
    if rest:
        rest[0] = destination(rest[0], name, _labelled((cluster, proxy, user)))
        # ssh takes options after the destination, too, up to the command.
        more = split_options(rest[1:], _SSH_ARGUMENTS)
        _refuse_other_identity(rest[1 : 1 + more], _SSH_ARGUMENTS)
        _warn_wrong_login(summary, [*options, *rest[1 : 1 + more]], rest[0])
        if summary.session_mfa:
            from tele.cli.session_factor import session_configuration

            where = (cluster, proxy, user)
            configuration = session_configuration(profile, rest[0], where) or configuration
    elif not any(each.startswith(("-Q", "-V", "-O")) for each in options):
        raise click.UsageError("no node given; tele ls lists them")
    execute(program, [*configuration, *options, *rest])


@click.command(cls=PassThrough, options_metavar="[--cluster C] [SCP OPTIONS]")
@target_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED, shell_complete=_complete_scp)
def scp(words: tuple[str, ...], cluster: str | None, proxy: str | None, user: str | None) -> None:
    """Copy files to and from nodes.

    Takes all options and arguments of scp(1); [LOGIN@]NODE:PATH is a remote file.
    """
    program, profile, configuration, summary = ready_for("scp", cluster, proxy, user)
    name = profile.cluster
    count = split_options(words, _SCP_ARGUMENTS)
    options, rest = words[:count], words[count:]
    _refuse_other_identity(options, _SCP_ARGUMENTS)
    find = _labelled((cluster, proxy, user))
    files = [_file(word, name, find) for word in rest]
    remote = [named for word, named in zip(rest, files, strict=True) if word != named]
    if summary.session_mfa and remote:
        from tele.cli.session_factor import session_configuration

        # A certificate is for one node: that of the first remote file.
        node = remote[0].removeprefix("scp://").partition(":")[0]
        where = (cluster, proxy, user)
        configuration = session_configuration(profile, node, where) or configuration
    execute(program, [*configuration, *options, *files])


def _file(word: str, cluster: str, find: Callable[[str], str]) -> str:
    """Return a file argument of scp with the node's full name; local files are unchanged."""
    if word.startswith("scp://"):
        where, slash, path = word.removeprefix("scp://").partition("/")
        return (
            "scp:"
            + destination(f"ssh://{where}", cluster, find).removeprefix("ssh:")
            + slash
            + path
        )
    head, colon, path = word.partition(":")
    if not colon or "/" in head or head.startswith("-") or not head:
        return word  # a local file, by scp's rule
    return destination(head, cluster, find) + colon + path


def _connection_options(host: str, port: int) -> list[str]:
    """Return ssh options for the connection to the proxy, if it leaves through a proxy, or if
    there are addresses of both families: ssh tries one after the other, with a time-out for each.
    """
    if not any(name in os.environ for name in _PROXY_VARIABLES) and not _has_both_families(
        host, port
    ):
        return []
    command = shlex.join([*this_program(), "proxy", "connect"]).replace("%", "%%")
    return ["-o", f"ProxyCommand={command} '%h:%p'", "-o", "ProxyUseFdpass=yes"]


def _has_both_families(host: str, port: int) -> bool:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return False  # ssh will report it
    return len({info[0] for info in found}) > 1


@click.group(
    cls=LazyGroup,
    lazy={
        "ssh": Lazy("tele.cli.ssh:proxy_ssh", "ProxyCommand of ssh to a node."),
        "connect": Lazy("tele.cli.connect:connect", "ProxyCommand of ssh to the proxy."),
    },
)
def proxy() -> None:
    """Connect OpenSSH to a node through the proxy."""


@click.command()
@click.option("--cluster", envvar="TELE_CLUSTER", help="[env: TELE_CLUSTER]")
@click.option("--proxy", envvar="TELE_PROXY", help="[env: TELE_PROXY]")
@click.option("--user", envvar="TELE_USER", help="[env: TELE_USER]")
@click.argument("target", metavar="[LOGIN@]NODE:PORT")
def proxy_ssh(target: str, cluster: str | None, proxy: str | None, user: str | None) -> None:
    """Connect standard input and output to a node's SSH port, as ProxyCommand of ssh."""
    program, profile, configuration, _ = ready_for("ssh", cluster, proxy, user)
    name = profile.cluster
    host, _, port = target.rpartition("@")[2].rpartition(":")
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", host) is None or not port.isdigit():
        raise InvalidInput(f"{quoted(target)} is not [LOGIN@]NODE:PORT")
    # At its default log level ssh prints the proxy's reason if the node cannot be reached.
    configuration += _connection_options(*proxy_address(profile.proxy))
    execute(program, [*configuration, "-W", f"{full_name(host, name)}:{port}", f"proxy.{name}"])
