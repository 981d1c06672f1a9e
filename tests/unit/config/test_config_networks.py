"""The configuration of networks in between: egress proxies, balancers, certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.testing import MemoryReactorClock

from tele.config.reading import parse
from tele.config.values import HttpsCertConfig, ProxyConfig, ProxyProtocol
from tele.embed import proxy_service
from tele.errors import ConfigError, InvalidInput
from tele.membership.joining import JoinSettings
from tele.outbound.egress import parse_proxy


def read(text: str) -> Any:
    return parse(f"version: v1\n{text}", "f.yaml", Path("/etc/tele")).config


def test_an_egress_proxy() -> None:
    """An address, and a file with the login, whose path counts from the configuration."""
    node = read("node:\n  join: {auth: 'a:1', via: 'socks5://gate', via_login_file: gate}\n").node
    assert node.join.via == parse_proxy("socks5://gate:1080")
    assert node.join.via_login_file == Path("/etc/tele/gate")


@pytest.mark.parametrize(
    ("join", "says"),
    [
        ("via: 'http://u:secret@gate:1'", "put them into a file, via_login_file"),
        ("via: 'ftp://gate'", "unknown kind of proxy: 'ftp'; use http, https or socks5"),
        ("via: 'http://gate:secret'", "this is not an address such as http://proxy.example.com"),
        ("via: 12", "node.join.via: expected a string, got the number 12"),
        ("via_login_file: x", "via_login_file is for via, which is missing"),
    ],
)
def test_bad_egress_proxies(join: str, says: str) -> None:
    """An error names the line, and does not contain what may be a password."""
    with pytest.raises(ConfigError) as caught:
        read(f"node:\n  join: {{auth: 'a:1', {join}}}\n")
    (problem,) = caught.value.problems
    assert problem.startswith("f.yaml:3: node.join")
    assert says in problem
    assert "secret" not in problem


def test_a_proxy_behind_a_balancer() -> None:
    """The header is off unless it is required; a certificate has two files."""
    join = "  join: {auth: 'a:1'}\n"
    assert read(f"proxy:\n{join}").proxy.proxy_protocol is ProxyProtocol.OFF
    assert read(f"proxy:\n  proxy_protocol: off\n{join}").proxy.https_cert is None
    proxy = read(
        f"proxy:\n  proxy_protocol: required\n  https_cert: {{cert: c.pem, key: /k}}\n{join}"
    ).proxy
    assert proxy.proxy_protocol is ProxyProtocol.REQUIRED
    assert proxy.https_cert == HttpsCertConfig(Path("/etc/tele/c.pem"), Path("/k"))
    for bad, says in (
        ("proxy_protocol: on", "expected one of off, required"),
        ("https_cert: {cert: c}", "proxy.https_cert.key: missing"),
    ):
        with pytest.raises(ConfigError, match=says):
            read(f"proxy:\n  {bad}\n{join}")


def test_a_missing_certificate_is_reported_at_the_start(tmp_path: Path) -> None:
    """A proxy does not start with another certificate than it is configured with."""
    config = ProxyConfig(https_cert=HttpsCertConfig(tmp_path / "c.pem", tmp_path / "k.pem"))
    with pytest.raises(InvalidInput, match=r"proxy.https_cert: certificate .*c.pem: No such file"):
        proxy_service(MemoryReactorClock(), config, tmp_path, join=JoinSettings(("a:1",)))
