"""Where auth gets the key of its signing keys; nothing of it is said, and none is made twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tele.cli.ca_keygen import keygen
from tele.config.scalars import Chosen
from tele.config.signing_keys import SigningKeysConfig, source_problem
from tele.embed.hardware_key import derive, make, parse
from tele.embed.signing_key import read_key, signing_keys, write_key
from tele.errors import InvalidInput, TeleError
from tele.tape.key_files import SIGNING_KEY, private_text, public_text
from tele.tape.sealing import public_key

KEY = bytes(range(32))
TEXT = private_text(KEY, SIGNING_KEY)
TELE = Path(sys.executable).parent / "tele"
MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")


def test_the_first_start_makes_it(tmp_path: Path) -> None:
    """In data_dir, closed to others; later starts read it."""
    first = signing_keys(SigningKeysConfig(), tmp_path, None)
    path = tmp_path / "signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing_keys(SigningKeysConfig(), tmp_path, None) == first
    assert first.source == str(path)
    assert repr(first.private) not in repr(first)


def test_each_source_gives_the_key(tmp_path: Path) -> None:
    """A file, the environment, which loses it, and a credential of systemd."""
    (tmp_path / "k").write_text(TEXT)
    (tmp_path / "k").chmod(0o600)
    for chosen in (Chosen("file", "k"), Chosen("file", str(tmp_path / "k"))):
        assert read_key(chosen, tmp_path, {}) == KEY
    environment = {"SIGNING": TEXT.strip(), "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_key(Chosen("env", "SIGNING"), tmp_path, environment) == KEY
    assert "SIGNING" not in environment
    assert read_key(Chosen("credential", "k"), tmp_path, environment) == KEY


def test_what_is_wrong_is_said_without_the_key(tmp_path: Path) -> None:
    """Which source, and what to do."""
    (tmp_path / "open").write_text(TEXT)
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "other").write_text(private_text(KEY))
    (tmp_path / "other").chmod(0o600)
    there = {"CREDENTIALS_DIRECTORY": str(tmp_path), "BAD": TEXT[:30]}
    cases = {
        Chosen("file", "open"): "others can read it",
        Chosen("file", "none"): "No such file",
        Chosen("file", "other"): "not a private key of `tele ca keygen`",
        Chosen("env", "NONE"): "the environment has no NONE",
        Chosen("env", "BAD"): "env:BAD",
        Chosen("credential", "none"): "No such file",
        Chosen("credential", "../other"): "a name, not a path",
        Chosen("pkcs11", "/nothing"): "expected pkcs11:MODULE",
    }
    for chosen, text in cases.items():
        with pytest.raises(TeleError, match=text.replace("?", r"\?")) as raised:
            read_key(chosen, tmp_path, there)
        assert TEXT.split(":")[1][:8] not in str(raised.value)
    with pytest.raises(InvalidInput, match="LoadCredential=k:PATH"):
        read_key(Chosen("credential", "k"), tmp_path, {})
    assert source_problem(Chosen("floppy"))
    assert source_problem(Chosen("env"))
    assert not source_problem(Chosen("file"))


def test_the_command_makes_a_key_once(tmp_path: Path) -> None:
    """It prints the public key, never the private one, and overwrites no file."""
    where = f"file:{tmp_path / 'k'}"
    made = CliRunner().invoke(keygen, [where])
    assert made.exit_code == 0, made.output
    private = read_key(Chosen("file", "k"), tmp_path, {})
    assert made.stdout.strip() == public_text(public_key(private))
    shown = CliRunner().invoke(keygen, [where, "--public"])
    assert shown.stdout == made.stdout
    again = CliRunner().invoke(keygen, [where])
    assert isinstance(again.exception, InvalidInput)
    assert "exists already" in str(again.exception)
    for wrong in ("env:X", str(tmp_path), "file:"):
        assert isinstance(CliRunner().invoke(keygen, [wrong]).exception, InvalidInput)
    with pytest.raises(InvalidInput, match="cannot write"):
        write_key(tmp_path / "none" / "k")


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A token of SoftHSM, without a key; gives the arguments of a source."""
    program = shutil.which("softhsm2-util")
    if program is None or not MODULE.exists():
        pytest.skip("softhsm2 is not installed")
    pytest.importorskip("pkcs11")
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    words = ["--init-token", "--free", "--label", "tele", "--pin", "1234", "--so-pin", "5678"]
    subprocess.run([program, *words], check=True, capture_output=True, timeout=60)
    (tmp_path / "pin").write_text("1234\n")
    (tmp_path / "pin").chmod(0o600)
    return f"{MODULE}?token=tele&object=signing&pin_file={tmp_path / 'pin'}"


def test_a_hardware_key(token: str, tmp_path: Path) -> None:
    """It is made in the module and stays there; what is wrong is said, without the PIN.

    One test: SoftHSM reads its configuration once in a process, so a second folder is not seen.
    """
    words = (str(TELE), "ca", "keygen")

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, *more], capture_output=True, text=True, timeout=60, check=False
        )

    made = run(f"pkcs11:{token}")
    assert made.returncode == 0, made.stderr
    again = run(f"pkcs11:{token}")
    assert again.returncode != 0
    assert "the token has a key 'signing' already" in again.stderr
    private = derive(token)
    assert len(private) == 32
    assert derive(token) == private
    assert made.stdout.strip() == public_text(public_key(private))
    assert run(f"pkcs11:{token}", "--public").stdout == made.stdout
    config = SigningKeysConfig(Chosen("pkcs11", token))
    keys = signing_keys(config, tmp_path, None)
    assert keys.private == private
    assert keys.source == f"pkcs11:{MODULE}"
    assert not (tmp_path / "signing.key").exists()
    wrong = (
        ("object=signing", "object=none"),
        ("token=tele", "token=none"),
        (str(MODULE), "/none.so"),
    )
    for present, instead in wrong:
        with pytest.raises(TeleError, match="cannot be used"):
            derive(token.replace(present, instead))
    (tmp_path / "pin").write_text("9999\n")
    with pytest.raises(TeleError, match="cannot be used") as raised:
        derive(token)
    assert "9999" not in str(raised.value)
    (tmp_path / "pin").chmod(0o644)
    with pytest.raises(InvalidInput, match="the PIN"):
        make(token)
    (tmp_path / "pin").unlink()
    with pytest.raises(InvalidInput, match="the PIN cannot be read"):
        parse(token)
    for arguments in ("", "m", "m?token=a", f"{token}&pin=1", f"{token}&token=b"):
        with pytest.raises(InvalidInput, match="expected pkcs11"):
            parse(arguments)
