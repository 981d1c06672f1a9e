"""The pages of a proxy in a real browser: log in, nodes, recordings, the player.

One Chromium does everything once (``browser/browse.mjs``); each test looks at a part of that.
``TELE_PICTURES=FOLDER`` keeps pictures of the pages.
"""

from __future__ import annotations

import base64
import getpass
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from node_packages import install
from tele.web.built import STATIC
from tele_command import BIN, Cluster

HERE = Path(__file__).parent / "browser"
WEB = Path(__file__).parents[2] / "web"
PASSWORD = "a password of the browser's own"
#: What a session shows that would like to be more than text. The page would have ``window.script``.
HOSTILE = "<img src=x onerror=script=1><script>script=2</script>"
ESCAPES = (
    r"\033]0;<b>a title</b>\007"
    r"\033]8;;javascript:script=3\033\\a link\033]8;;\033\\"
    r"\033]52;c;c3RvbGVu\007"
    r"\033[6n\033[c"
)


@pytest.fixture(scope="module")
def built() -> None:
    """The pages are built from the present sources, as an installation does."""
    done = subprocess.run(
        [sys.executable, str(WEB / "tele_build.py")], capture_output=True, text=True, check=False
    )
    if not (STATIC / "index.html").is_file():
        pytest.skip(f"the pages cannot be built here: {done.stderr}")
    assert done.returncode == 0, done.stderr


@frozen
class Seen:
    """What the browser saw."""

    parts: dict[str, Any]
    cluster: Cluster

    def __getitem__(self, part: str) -> Any:
        assert part in self.parts, self.parts["errors"].get(part, self.parts["errors"])
        return self.parts[part]


def recorded(cluster: Cluster, script: str, *options: str) -> dict[str, Any]:
    """Run ``script`` in a session, and return the row of its recording when auth has all of it."""
    tele = cluster.tele
    before = {each["id"] for each in tele.json("recordings", "ls")}
    tele.run("ssh", *options, tele.json("ls")[0]["name"], script)
    for _ in range(200):
        for each in tele.json("recordings", "ls"):
            if each["id"] not in before and each["complete"]:
                found: dict[str, Any] = each
                return found
        time.sleep(0.1)
    raise AssertionError("the recording did not arrive")


@pytest.fixture(scope="module")
def seen(built: None, cluster: Cluster) -> Iterator[Seen]:
    """Everything, done once."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    modules = install(HERE, "playwright-core")
    tele = cluster.tele
    secret = cluster.folder / "password"
    secret.touch(0o600)
    secret.write_text(PASSWORD + "\n")
    tele.run(
        "users", "add", "bea", "--role", "access,auditor", "--login", getpass.getuser(),
        "--password-file", secret,
    )  # fmt: skip
    lines = "; ".join(f"echo line {number}" for number in range(40))
    session = recorded(
        cluster, f"echo the beginning; sleep 1; {lines}; sleep 1; echo the very end", "-tt"
    )
    program = recorded(cluster, "echo output of a program")
    hostile = recorded(
        cluster, f"printf '{ESCAPES}'; printf '%s\\n' '{HOSTILE}'; echo no more; sleep 1", "-tt"
    )
    page = cluster.folder / "session.html"
    tele.run("recordings", "export", session["id"], page)
    made = tele.json("users", "add", "guest", "--role", "access", "--login", "guest", "--invite")
    invitation = made["invitation"]
    tele.run("users", "add", "kai", "--role", "access", "--password-file", secret)
    settings = cluster.folder / "settings.yaml"
    settings.write_text(
        f"{{kind: cluster, version: v1, metadata: {{name: {cluster.name}}},"
        " spec: {webauthn: {rp_id: localhost}}}"
    )
    tele.run("apply", "-f", settings)
    wanted = {
        "modules": str(modules),
        "chromium": chromium,
        "url": f"https://{cluster.listen}",
        "user": "bea",
        "password": PASSWORD,
        "recording": {
            "id": session["id"], "first": "the beginning", "last": "the very end",
            "find": "line 3", "late": 3600,
        },
        "program": {"id": program["id"], "output": "output of a program"},
        "hostile": {"id": hostile["id"], "end": "no more", "find": "onerror"},
        "file": str(page),
        "invitation": invitation,
        "keyUser": "kai",
        "pictures": os.environ.get("TELE_PICTURES", ""),
    }  # fmt: skip
    running = subprocess.Popen(
        [str(BIN / "tele"), "ssh", "-tt", tele.json("ls")[0]["name"],
         "echo first; read word; echo got $word; read word"],
        env=tele.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert running.stdin is not None
        assert running.stdout is not None
        assert b"first" in running.stdout.readline()
        others = {session["id"], program["id"], hostile["id"]}
        (mine,) = {each["id"] for each in tele.json("recordings", "ls")} - others
        wanted["running"] = {"id": mine, "first": "first", "next": "got more"}
        shutil.copy(HERE / "browse.mjs", modules / "browse.mjs")
        browser = subprocess.Popen(
            ["node", str(modules / "browse.mjs")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        timer = threading.Timer(240, browser.kill)
        timer.start()
        with browser:
            try:
                assert browser.stdin is not None
                assert browser.stdout is not None
                assert browser.stderr is not None
                browser.stdin.write(json.dumps(wanted))
                browser.stdin.close()
                said = ""
                for line in browser.stderr:
                    said += line
                    if line.strip() == "following":
                        running.stdin.write(b"more\n")
                        running.stdin.flush()
                printed = browser.stdout.read()
                assert browser.wait() == 0, said
            finally:
                timer.cancel()
                browser.kill()
        yield Seen(json.loads(printed), cluster)
    finally:
        running.kill()
        running.communicate()


def test_every_part_was_done_without_an_error(seen: Seen) -> None:
    """No part failed, no page logged an error, and the policy of the pages refused nothing."""
    assert seen.parts["errors"] == {}
    assert seen["problems"] == []


def test_pages_load_nothing_from_elsewhere(seen: Seen) -> None:
    """Every request goes to the proxy."""
    assert seen["foreign"] == []


def test_the_proxy_sees_no_password(seen: Seen) -> None:
    """Nothing is posted to the proxy, and what passes through it is encrypted for auth."""
    assert seen["sent"] == 0
    assert seen["leaked"] is False
    assert PASSWORD not in seen.cluster.log


def test_log_in(seen: Seen) -> None:
    """A wrong password is refused as auth says, the right one shows the nodes."""
    assert "password is wrong" in seen["login"]["refused"]
    assert len(seen["nodes"]["rows"]) == 1
    assert "online" in seen["nodes"]["rows"][0]


def test_a_login_is_an_event_with_the_address_of_the_browser(seen: Seen) -> None:
    """Auth knows of a login in a browser what it knows of one by the command."""
    logins = [
        each for each in seen.cluster.tele.json("audit", "ls")
        if each["event"] == "user.login" and each.get("user") == "bea"
    ]  # fmt: skip
    assert {each["ok"] for each in logins} == {True, False}
    assert all(each["remote_addr"].startswith("127.0.0.1") for each in logins)


def test_keys_cannot_leave_the_browser(seen: Seen) -> None:
    """A script of the page itself cannot export a private key; there is no cookie to steal."""
    assert seen["keys"]["extractable"] == [False, False]
    assert seen["keys"]["taken"] is False
    assert seen["policy"] == {"markup": "refused", "handler": "refused", "cookies": ""}


def test_replay(seen: Seen) -> None:
    """The player plays, jumps to end, beginning and a point of the bar, and finds text."""
    found = seen["replay"]
    assert found["playing"] == "Pause"
    assert "the very end" in found["end"]
    assert "line 39" in found["end"]
    assert "the very end" not in found["begin"]
    assert found["hits"] == "1 of 11"
    assert "line 3" in found["chosen"]
    assert found["onBar"] == 11


def test_a_link_to_a_time_opens_there(seen: Seen) -> None:
    """An address with a time shows that moment, and waits."""
    assert seen["link"]["state"] == "Play"


def test_a_program_without_a_terminal(seen: Seen) -> None:
    """Its output is shown, and its command is listed."""
    assert "output of a program" in seen["program"]["text"]
    assert any("echo output of a program" in each for each in seen["program"]["marks"])


def test_what_a_session_shows_is_text(seen: Seen) -> None:
    """Markup, titles, links and clipboard sequences of a recorded session run nothing and change
    nothing but the recorded screen.
    """
    found = seen["hostile"]
    assert found["script"] == "none"
    assert found["title"].startswith("recordings")
    assert any("onerror" in each for each in found["hits"])


def test_a_running_session_is_followed(seen: Seen) -> None:
    """What a session shows after the page was opened appears there."""
    assert "live" in seen["follow"]["live"]


def test_narrow_and_dark(seen: Seen) -> None:
    """On a phone no page is wider than the screen."""
    found = seen["narrow"]
    assert [found["login"], found["nodes"], found["player"]] == [0, 0, 0]


def test_a_recording_in_one_file(seen: Seen, tmp_path: Path) -> None:
    """It plays without a network, asks for nothing, and has the recording that can be verified."""
    found = seen["file"]
    assert "the very end" in found["end"]
    assert found["lines"] > 40
    assert len(found["asked"]) == 1
    tape = tmp_path / "saved.tape"
    tape.write_bytes(base64.b64decode(found["saved"]))
    assert seen.cluster.tele.run("recordings", "verify", tape).stdout.startswith("ok: ")


def test_an_invitation_is_accepted(seen: Seen) -> None:
    """The page takes the code from the address, where it does not stay, and logs in."""
    assert seen["invitation"]["user"] == "guest"
    assert "code" not in seen["invitation"]["address"]


def test_a_second_factor_in_a_browser(seen: Seen) -> None:
    """An app is set up by its QR code; from then on a log-in needs its code, or a recovery code."""
    found = seen["invitation"]
    assert found["modules"] > 400
    assert found["codes"] == 8
    assert "the code is wrong" in found["refused"]
    (device,) = found["devices"]
    assert "phone" in device
    assert any("left: 7" in each for each in found["left"])
    assert found["faults"] == []
    listed = seen.cluster.tele.json("users", "mfa", "ls", "guest")
    assert [each["name"] for each in listed["devices"]] == ["phone"]
    used = [
        each["second_factor"] for each in seen.cluster.tele.json("audit", "ls")
        if each["event"] == "user.login" and each.get("user") == "guest" and "second_factor" in each
    ]  # fmt: skip
    assert sorted(used) == ["recovery", "totp"]


def test_a_security_key_in_a_browser(seen: Seen) -> None:
    """A key is set up, logs in in place of a code, and is removed; each is an event."""
    found = seen["security_key"]
    (device,) = found["devices"]
    assert "security key" in device
    assert found["faults"] == []
    events = [
        each for each in seen.cluster.tele.json("audit", "ls") if each.get("user") == "kai"
    ]  # fmt: skip
    logins = [each for each in events if each["event"] == "user.login"]
    assert [each.get("second_factor", "") for each in logins if each["ok"]] == ["", "webauthn"]
    assert {"mfa.add", "mfa.challenge", "mfa.delete"} <= {each["event"] for each in events}


def test_audit(seen: Seen) -> None:
    """Who may list events sees them, the last ones first."""
    rows = seen["audit"]["rows"]
    assert any("session.start" in each for each in rows)
    assert any("user.login" in each and "wrong password" in each for each in rows)


@pytest.mark.parametrize(
    "part", ["login", "nodes", "recordings", "replay", "narrow", "file", "audit"]
)
def test_accessibility(seen: Seen, part: str) -> None:
    """axe-core finds no serious fault."""
    assert seen[part]["faults"] == []


def test_a_login_survives_a_reload_and_ends_at_the_log_out(seen: Seen) -> None:
    """The page is logged in after a reload; after the log-out nothing of it is kept."""
    assert seen["again"] == 0
