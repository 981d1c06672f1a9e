"""Does a process import only the parts of tele that it runs? They are most of its memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: What no process of a host needs until it is asked for.
_NEVER = {"sqlite3", "twisted.web.server", "tele.cli", "tele.auth", "tele.store", "tele.testing"}
#: What starts sessions and makes accounts.
_SESSIONS = {
    "tele.spawner.program", "tele.spawner.session_child", "tele.spawner.host_accounts",
}  # fmt: skip


def imported(*modules: str) -> set[str]:
    """Return the modules of a new process that imports ``modules``, with their packages."""
    program = "import sys, importlib\n[importlib.import_module(name) for name in sys.argv[1:]]\n"
    done = subprocess.run(
        [sys.executable, "-c", program + "print(*sys.modules)", *modules],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("part", "others"),
    [
        ("node", {"tele.proxy", "tele.https.serve", "twisted.web.http"}),
        # Rules that are checked where they are written and where they hold are in the spawner.
        ("proxy", {"tele.node", *_SESSIONS}),
        ("auth", {"tele.node.service", "tele.proxy", *_SESSIONS}),
    ],
)
def test_parts_that_do_not_run_are_not_imported(part: str, others: set[str]) -> None:
    """``twistd tele-node`` has neither auth nor the proxy in memory, and so on."""
    modules = imported(f"tele.tap.{part}", f"tele.embed.{part}")
    never = _NEVER - {"tele.auth", "tele.store"} if part == "auth" else _NEVER
    assert not modules & (never | others)


def test_names_of_embed_are_imported_when_they_are_used() -> None:
    """``import tele.embed`` costs an embedder nothing, and unknown names fail as usual."""
    from tele import embed

    assert not {name for name in imported("tele.embed") if name.startswith("tele.")} - {
        "tele.embed"
    }
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        embed.nothing  # type: ignore[attr-defined]  # noqa: B018
