"""What of the documentation's blocks is not run, and why."""

from __future__ import annotations

from typing import Final

_INSTALLS = "it installs software; .ci/run installs the wheel in a clean environment and uses it"
_SYSTEMD = "systemd does not run here; tests/cli/test_cli_services.py checks the units"
#: How lines begin that run the tests themselves, or programs of theirs that take minutes.
TESTS_AND_MEASURES: Final = (
    "sh tests/run",
    "python tests/fuzz/",
    "python tests/faults/",
    "python bench/",
)
#: Lines to type, without comments. All but these, and those above, are run.
COMMANDS_NOT_RUN: Final = {
    "python3 -m venv /opt/tele": _INSTALLS,
    "/opt/tele/bin/pip install .": _INSTALLS,
    "cp docs/examples/systemd/tele-auth.service /etc/systemd/system/": _SYSTEMD,
    "systemctl daemon-reload": _SYSTEMD,
    "systemctl enable --now tele-auth": _SYSTEMD,
    "journalctl -u tele-node -f": _SYSTEMD,
    "sh src/tele/tracer/compile.sh": "tests/unit/tracer/test_object.py runs it in another folder",
    "tele completion fish | source": "fish is not installed; tests/cli checks the script",
}
#: Blocks that are neither commands nor a configuration of tele, by page and how they begin.
OTHER_BLOCKS: Final = {
    ("docs/explanation/clocks.rst", "tele: the clock of this machine"): "an error message",
    ("docs/howto/plugins.rst", "# myproject/tele/plugins/syslog_sink.py"): (
        "a module; tests/cli/test_cli_embed.py uses plugins of this shape"
    ),
    ("docs/howto/sshd-fleet.rst", "HostCertificate "): "a part of sshd's configuration",
    ("docs/howto/sshd-fleet.rst", "session:root@db-legacy"): "a file of sshd",
    ("docs/howto/egress.rst", "[Service]"): "a part of a unit of systemd",
    ("docs/howto/proxies.rst", "listen tele"): (
        "HAProxy's configuration; tests/interop/test_balancers.py runs HAProxy with one"
    ),
    ("docs/howto/postgresql.rst", "CREATE ROLE tele LOGIN;"): "SQL for an administrator's psql",
    ("docs/howto/etcd.rst", "etcdctl user add root"): "asks for passwords",
    ("docs/protocols/api.rst", '{"error": '): "an answer of the API",
    ("docs/protocols/audit.rst", "import hashlib, json"): (
        "a function that shows how hashes are made; tests of the audit check the same"
    ),
    ("docs/protocols/certificates.rst", "TeleIdentity DEFINITIONS "): "an ASN.1 module",
    ("docs/protocols/tunnel.rst", "TELE-CLIENT "): "a line of a protocol",
    ("docs/reference/commands.rst", "$TELE_HOME/current "): "a list of files",
}


def is_run(line: str) -> bool:
    """Whether a line to type has to be run with its page."""
    return line not in COMMANDS_NOT_RUN and not line.startswith(TESTS_AND_MEASURES)


def other(page: str, text: str) -> tuple[str, str] | None:
    """Return under which of :data:`OTHER_BLOCKS` a block is listed, if it is."""
    return next((k for k in OTHER_BLOCKS if k[0] == page and text.startswith(k[1])), None)
