"""The configuration file: its meaning, and its error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from tele.admission.penalties import Overflow, PenaltyRules
from tele.certs import composite
from tele.certs.suites import SignatureSuite
from tele.conch.server.factory import ServerAlgorithms
from tele.config.reading import Loaded, load, parse, read_address
from tele.config.values import (
    Address,
    Chosen,
    FileConfig,
    JoinConfig,
    Keep,
    PenaltiesConfig,
    cluster_name_problem,
)
from tele.embed.hosts import limits_of, penalty_rules, ssh_algorithms
from tele.errors import ConfigError
from tele.model.recording_modes import MODES, ProxyLogin
from tele.model.resources import RecordingMode

WORKING = ", ".join(mode.value for mode in MODES)

PIN = "sha256:" + "ab" * 32
FOLDER = Path("/etc/tele")
DESIGN = f"""\
version: v1
data_dir: /var/lib/tele
auth:
  cluster_name: example
  listen: 0.0.0.0:3025
  store: sqlite
  recordings: dir
  session_recording: {{mode: node, proxy_checks_host_keys: true}}
proxy:
  listen: 0.0.0.0:3080
  public_addr: proxy.example.com:3080
  join: {{auth: "auth.example.com:3025", token_file: /etc/tele/token, ca_pin: "{PIN}"}}
node:
  name: web1
  join: {{proxy: "proxy.example.com:3080", token_file: /etc/tele/token, ca_pin: "{PIN}"}}
  listen: 0.0.0.0:3022
  labels: {{env: prod}}
  commands: {{kernel: {{command: [uname, -r], period: 1m}}}}
"""


def read(text: str, kinds: Mapping[str, list[str]] | None = None) -> Loaded:
    return parse(text, "f.yaml", FOLDER, kinds)


def problems(text: str, kinds: Mapping[str, list[str]] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read(text, kinds)
    return caught.value.problems


def auth(*lines: str) -> str:
    return "\n".join(["version: v1", "auth:", "  cluster_name: c", *lines, ""])


def test_one_recorder_or_several() -> None:
    """One value stands for a list; each is named once, and there is at least one."""

    def given(text: str) -> str:
        return f"version: v1\nnode: {{join: {{auth: a, ca_pin: '{PIN}'}}, recorder: {text}}}\n"

    def recorders(text: str) -> list[str]:
        node = read(given(text)).config.node
        assert node is not None
        return [str(each) for each in node.recorder]

    assert recorders("tape") == ["tape"]
    assert recorders('["tape", "mine:a b"]') == ["tape", "mine:a b"]
    for bad, said in (("[]", "name a recorder"), ("[tape, tape]", "once"), ("{a: b}", "a list")):
        (problem,) = problems(given(bad))
        assert said in problem
    (problem,) = problems(given("[tape, other]"), {"node.recorder": ["tape"]})
    assert "no plugin for other" in problem


def test_the_example_of_the_design_is_read() -> None:
    """Every key of the published example has its place in the values."""
    config = read(DESIGN).config
    assert config.auth is not None
    assert config.proxy is not None
    assert config.node is not None
    assert config.data_dir == Path("/var/lib/tele")
    assert config.auth.listen == Address("0.0.0.0", 3025)
    assert config.auth.store == Chosen("sqlite")
    assert config.auth.session_recording is not None
    assert config.auth.session_recording.mode is RecordingMode.NODE
    assert config.proxy.public_addr == Address("proxy.example.com", 3080)
    assert config.node.join is not None
    assert config.node.join.ca_pin is not None
    assert config.node.join.ca_pin.values == (PIN,)
    assert config.node.join.token_file == Path("/etc/tele/token")
    assert config.node.labels == {"env": "prod"}
    assert config.node.commands["kernel"].command == ("uname", "-r")
    assert config.node.commands["kernel"].period == timedelta(minutes=1)
    assert config.node.state is Keep.DISK


def test_defaults() -> None:
    """A section may be empty, and a key without a default is missed."""
    config = read(auth()).config
    assert config.auth is not None
    assert (config.auth.store, config.auth.recordings) == (Chosen("sqlite"), Chosen("dir"))
    assert problems("version: v1\nauth:\n") == ("f.yaml:2: auth.cluster_name: missing",)
    whole = read(auth("proxy:", "node:")).config
    assert whole.node is not None
    assert whole.node.join is None  # auth is in the same process


def test_all_mistakes_are_reported_together() -> None:
    """Duplicates, unknown keys, wrong types and what only the whole file shows, by line."""
    text = """\
version: v2
auth:
  cluster_name: Bad_Name
  stor: sqlite
  listen: no where
proxy:
  join: {token_file: /t}
node:
  name: 12
  labels: {a: yes, a: no, b: 1}
  commands: {k: {command: uname, period: 1x}}
"""
    found = problems(text)
    assert [each.partition(": ")[0] for each in found] == [
        f"f.yaml:{line}" for line in (1, 3, 4, 5, 7, 7, 9, 10, 10, 11, 11)
    ]
    assert "f.yaml:4: auth.stor: unknown key; did you mean store?" in found
    assert "f.yaml:10: key 'a' is given twice, first on line 10" in found
    assert any(each.endswith("node.name: expected a string, got the number 12 (quote it to make"
                             " it a string)") for each in found)  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["  listen: 0.0.0.0:99999"], "auth.listen: '0.0.0.0:99999' is not host:port"),
        (["  listen: [1, 2]"], "auth.listen: expected a string, got a list"),
        (["  store: 'Sqlite'"], "auth.store: 'Sqlite' is not kind or kind:arguments"),
        (["  store: 'sqlite:'"], "auth.store: 'sqlite:' is not kind or kind:arguments"),
        (["  audit: file:/x"], "auth.audit: expected a list, got 'file:/x'"),
        (["  session_recording: node"], "auth.session_recording: expected keys and values"),
        (["  session_recording: {mode: all}"], f"expected one of {WORKING}, got 'all'"),
        (["log: {level: loud}"], "log.level: expected one of debug, info, warn, error"),
        (["data_dir: 7"], "data_dir: expected a path, got the number 7"),
    ],
)
def test_a_wrong_value_says_what_was_expected(lines: list[str], says: str) -> None:
    """The sentence names the key, what it wants and what it got."""
    (problem,) = problems(auth(*lines))
    assert says in problem


def test_a_host_has_to_know_where_auth_is() -> None:
    """``join`` is needed unless auth is in the same file; it names auth or a proxy, and a pin."""
    assert "proxy.join: missing" in problems("version: v1\nproxy: {}\n")[0]
    both = "{auth: a, proxy: b}"
    assert "give one of auth and proxy" in problems(f"version: v1\nproxy: {{join: {both}}}")[0]
    assert "give one" in problems("version: v1\nproxy: {join: {}}")[0]
    unpinned = "version: v1\nnode: {join: {auth: a, token_file: t}}"
    assert "give ca_pin" in problems(unpinned)[0]


def test_a_node_without_a_port() -> None:
    """A node that joins by a proxy needs no port: it has tunnels, as many as are asked for."""
    join = f"join: {{proxy: p, token_file: t, ca_pin: '{PIN}'}}"
    node = read(f"version: v1\nnode: {{{join}, tunnels: 2}}").config.node
    assert node is not None
    assert (node.listen, node.tunnels) == (None, 2)
    assert "1 to 64" in problems(f"version: v1\nnode: {{{join}, tunnels: 0}}")[0]


def test_something_has_to_run() -> None:
    """A file without a section is a mistake, not a service that does nothing."""
    assert "nothing to run" in problems("version: v1")[0]
    assert "expected one YAML document" in problems("")[0]


def test_relative_paths_count_from_the_file() -> None:
    """The same file means the same wherever the command is run."""
    join = f"{{auth: a, token_file: ../t, ca_pin: '{PIN}'}}"
    text = f"version: v1\ndata_dir: data\nnode: {{join: {join}}}"
    config = read(text).config
    assert config.data_dir == FOLDER / "data"
    assert config.node is not None
    assert config.node.join is not None
    assert config.node.join.token_file == Path("/etc/t")


def test_pins_may_be_a_list() -> None:
    """While a CA is replaced two pins are right; something else is no pin."""
    text = "version: v1\nproxy: {join: {auth: a, ca_pin: %s}}"
    join = read(text % f"[{PIN}, '{PIN.replace('ab', 'cd')}']").config.proxy
    assert join is not None
    assert join.join is not None
    assert join.join.ca_pin is not None
    assert len(join.join.ca_pin.values) == 2
    assert "is not a CA pin" in problems(text % "'sha256:12'")[0]
    assert "at least one" in problems(text % "[]")[0]


def test_the_error_for_an_unknown_plugin_lists_the_known_ones() -> None:
    """A kind without a plugin is found when the file is read, not when it is used."""
    kinds = {"auth.store": ["sqlite", "memory"], "auth.audit": ["file"]}
    assert read(auth("  store: memory"), kinds)
    assert problems(auth("  store: mysql:x"), kinds) == (
        "f.yaml:4: auth.store: no plugin for mysql; there are memory, sqlite",
    )
    assert "no plugin for syslog" in problems(auth("  audit: [syslog]"), kinds)[0]


@pytest.mark.parametrize(
    ("text", "port", "address"),
    [
        ("a.example:1", 0, Address("a.example", 1)),
        ("a.example", 3025, Address("a.example", 3025)),
        ("10.0.0.1:0", 5, Address("10.0.0.1", 0)),
        ("[::1]:80", 0, Address("::1", 80)),
        ("[::1]", 80, Address("::1", 80)),
        ("::1", 80, Address("::1", 80)),
    ],
)
def test_addresses(text: str, port: int, address: Address) -> None:
    """Names, IPv4 and IPv6, with and without a port; what is printed is read again."""
    assert read_address(text, port) == address
    assert read_address(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", ":", "a:", "a:b", "a:1:", "a b:1", "a:-1", "a:65536", "a:1\n", "$(id):1", "-x:1"]
)
def test_what_is_no_address(text: str) -> None:
    """Nothing that a shell or a resolver could read otherwise passes for an address."""
    with pytest.raises(ValueError, match="is not host:port"):
        read_address(text)


@pytest.mark.parametrize("name", ["a", "example", "prod-1", "eu.example.com", "x" * 60])
def test_good_cluster_names(name: str) -> None:
    """A cluster's name is part of host names."""
    assert not cluster_name_problem(name)


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "-a", "a-", "a..b", ".a", "a.", "*", "a b", "a\n", "x" * 65]
)
def test_bad_cluster_names(name: str) -> None:
    """It is never a pattern, a path or an option."""
    assert cluster_name_problem(name)


@pytest.mark.parametrize("name", ["x@y", "a b", "a/b", "-a", "a.", "", "*"])
def test_bad_node_names(name: str) -> None:
    """A node's name is one that ssh accepts: what is before an @ is a login."""
    lines = ["node:", f"  name: '{name}'", "  join: {auth: 'a.example:3025', token: t}"]
    with pytest.raises(ConfigError, match="a name is letters"):
        read("\n".join(["version: v1", *lines, ""]))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, and not text have messages of their own."""
    for path, says in ((tmp_path / "no", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError, match=says):
            load(path)
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "b")


def test_a_later_problem_finds_its_line() -> None:
    """A problem found when a value is used has the same form as one found in reading."""
    loaded = read(DESIGN)
    assert str(loaded.problem("auth.store", "no")) == "f.yaml:6: auth.store: no"
    assert str(loaded.problem("auth.audit", "no")) == "f.yaml:3: auth.audit: no"


PENALTIES = """\
version: v1
auth: {cluster_name: c}
node:
  penalties: %s
"""


def test_penalties() -> None:
    """Times, a number, a choice and networks; what is left out is as OpenSSH has it."""
    text = "{authfail: 1m, noauth: 0s, max_sources: 100, overflow: deny-all, exempt: [10.0.0.0/8]}"
    node = read(PENALTIES % text).config.node
    assert node is not None
    limits = limits_of(node).penalties
    assert (limits.authfail, limits.noauth, limits.crash, limits.max) == (60, 0, 90, 600)
    assert (limits.max_sources, limits.overflow) == (100, Overflow.DENY_ALL)
    assert limits.source("10.1.2.3") is limits.source("127.0.0.1") is None
    assert penalty_rules(PenaltiesConfig()) == PenaltyRules()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{exempt: [10.0.0.1/8]}", "is not an address or a network"),
        ("{exempt: [example.com]}", "is not an address or a network"),
        ("{exempt: 10.0.0.0/8}", "expected a list"),
        ("{max_sources: 0}", "from 1 to"),
        ("{max_sources: true}", "expected a number"),
        ('{max_sources: "5"}', "expected a number"),
        ("{ipv6_bits: 129}", "from 16 to 128"),
        ("{overflow: allow}", "expected one of permissive, deny-all"),
        ("{max: 5}", "expected a string"),
        ("{authfails: 5s}", "did you mean authfail"),
    ],
)
def test_bad_penalties(text: str, says: str) -> None:
    """Errors in them are reported as any."""
    assert says in problems(PENALTIES % text)[0]


def fields_of(cls: Any) -> list[Any]:
    return [each for each in attrs.fields(cls) if not each.metadata.get("meaning")]


@pytest.mark.parametrize("cls", [FileConfig, JoinConfig, PenaltiesConfig])
def test_each_key_says_what_it_means(cls: type[Any]) -> None:
    """The reference is printed from these texts."""
    assert not fields_of(cls)


@pytest.mark.parametrize("section", ["node", "proxy"])
def test_ciphers(section: str) -> None:
    """Any of those that there are, each once and in any order; all but ChaCha20 by default."""
    start = f"version: v1\nauth: {{cluster_name: c}}\n{section}: {{ciphers: "
    config = read(start + "[aes256-ctr, chacha20-poly1305@openssh.com]}\n").config
    assert getattr(config, section).ciphers == ("aes256-ctr", "chacha20-poly1305@openssh.com")
    for wrong, why in (
        ("[aes128-cbc]", "there is no cipher 'aes128-cbc'; there are aes128-gcm@openssh.com, "),
        ("[aes128-ctr, aes128-ctr]", "each cipher once"),
        ("[]", "at least one cipher"),
        ("aes128-ctr", "expected a list"),
    ):
        (problem,) = problems(f"{start}{wrong}}}\n")
        assert why in problem
    default = read(f"version: v1\nauth: {{cluster_name: c}}\n{section}: {{}}\n").config
    assert not any("chacha" in name for name in getattr(default, section).ciphers)


@pytest.mark.parametrize("section", ["node", "proxy"])
def test_key_exchanges(section: str) -> None:
    """What is written is what is offered, at nodes and at proxies; nothing: by the host key."""
    start = f"version: v1\nauth: {{cluster_name: c}}\n{section}: "
    written = read(start + "{key_exchanges: [ecdh-sha2-nistp256], ciphers: [aes256-ctr]}\n").config
    assert ssh_algorithms(getattr(written, section)) == ServerAlgorithms(
        (b"ecdh-sha2-nistp256",), (b"aes256-ctr",)
    )
    default = ssh_algorithms(getattr(read(start + "{}\n").config, section))
    assert default.key_exchanges is None
    (problem,) = problems(start + "{key_exchanges: [diffie-hellman-group1-sha1]}\n")
    assert "there is no key exchange method 'diffie-hellman-group1-sha1'" in problem


def test_the_suite_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is refused by name, and one that this machine cannot make with what to do;
    nothing means what the cluster has.
    """
    start = "version: v1\nauth: {cluster_name: c"
    for text, suite in (("", None), (", signature_algorithm_suite: ecdsa", SignatureSuite.ECDSA)):
        auth = read(f"{start}{text}}}\n").config.auth
        assert auth is not None
        assert auth.signature_algorithm_suite is suite
    (problem,) = problems(f"{start}, signature_algorithm_suite: dsa}}\n")
    assert "expected one of ed25519, ecdsa, rsa, mldsa44-ed25519, got" in problem
    monkeypatch.setattr(composite, "is_offered", lambda: False)
    (problem,) = problems(f"{start}, signature_algorithm_suite: mldsa44-ed25519}}\n")
    assert ":2: auth.signature_algorithm_suite" in problem
    assert "offers no ML-DSA: install one that does" in problem


@pytest.mark.parametrize("section", ["node", "proxy"])
def test_keepalive(section: str) -> None:
    """Any number of seconds, or 0s for never; fifteen by default."""
    start = f"version: v1\nauth: {{cluster_name: c}}\n{section}: "
    for text, seconds in (("{}", 15), ("{keepalive: 1m}", 60), ("{keepalive: 0s}", 0)):
        found = getattr(read(f"{start}{text}\n").config, section)
        assert found.keepalive == timedelta(seconds=seconds)
    (problem,) = problems(start + "{keepalive: -1s}\n")
    assert "keepalive" in problem


@pytest.mark.parametrize("mode", [m.value for m in RecordingMode if m not in MODES])
def test_a_recording_mode_that_nothing_does_is_refused(mode: str) -> None:
    """Sessions that someone believes to be recorded elsewhere would not be; the line is named,
    and what there is.
    """
    (problem,) = problems(auth(f"  session_recording: {{mode: {mode}}}"))
    assert re.match(r"[^:]+:\d+: auth.session_recording.mode: ", problem)
    assert f"{mode}: this version supports {WORKING}" in problem


def test_what_proxies_do_at_hosts_with_sshd() -> None:
    """Whether they check host keys, and with what they log in."""
    given = "{proxy_checks_host_keys: false, proxy_login: agent}"
    config = read(auth(f"  session_recording: {given}")).config
    assert config.auth is not None
    settings = config.auth.session_recording
    assert settings is not None
    assert (settings.proxy_checks_host_keys, settings.proxy_login) == (False, ProxyLogin.AGENT)
    (problem,) = problems(auth("  session_recording: {proxy_login: password}"))
    assert "expected one of certificate, agent" in problem


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("  tunnels: 5", "f.yaml:3: node.tunnels: there are none without join.proxy"),
        ("  tunnels: 5\n  join: {auth: 'a:1'}", "f.yaml:3: node.tunnels: there are none"),
        (
            "  join: {proxy: 'p:1'}\n  public_addr: 'web1:3022'",
            "f.yaml:4: node.public_addr: nothing is bound without listen",
        ),
        (
            "  labels: {env: prod}\n  commands:\n    env: {command: [hostname]}",
            "f.yaml:5: node.commands.env: this label is given in labels, too",
        ),
    ],
)
def test_keys_that_another_makes_meaningless_are_refused(lines: str, says: str) -> None:
    """A key that would do nothing beside the others is a mistake with its line, not a wish."""
    text = f"version: v1\nnode:\n{lines}\n"
    text += "" if "join" in lines else "auth: {cluster_name: c}\n"
    (problem,) = problems(text)
    assert problem.startswith(says)


def test_keys_that_go_together_are_taken() -> None:
    """The same keys beside what gives them a meaning."""
    load_ok = parse(
        "version: v1\nnode:\n  tunnels: 5\n  join: {proxy: 'p:1'}\n  listen: '0.0.0.0:3022'\n"
        "  public_addr: 'web1:3022'\n  labels: {env: prod}\n"
        "  commands: {kernel: {command: [uname]}}\n",
        "f.yaml", Path("/"),
    )  # fmt: skip
    assert load_ok.config.node is not None
    assert load_ok.config.node.tunnels == 5


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("1GiB", 1 << 30), ("2TiB", 2 << 40), ("0", 0)]
)
def test_sizes(text: str, size: int) -> None:
    """A size has a unit, 0 is none, and it is shown as it is written."""
    config = read(auth(f"  recording_limits: {{user: {text}}}")).config
    assert config.auth is not None
    assert config.auth.recording_limits.user.bytes == size
    assert str(config.auth.recording_limits.user) == text


@pytest.mark.parametrize("text", ["1", "1GB", "1.5GiB", "-1GiB", "true", "9999999TiB"])
def test_what_is_no_size(text: str) -> None:
    """What is not a size is reported with its place and an example."""
    (problem,) = problems(auth(f"  recording_limits: {{user: {text}}}"))
    assert problem.startswith("f.yaml:4: auth.recording_limits.user: ")


def test_silent_nodes_get_time_to_come_back() -> None:
    """A limit that any restart of a machine would exceed is refused."""
    (problem,) = problems(auth("  session_end_after: 1m"))
    assert "at least 5m" in problem
