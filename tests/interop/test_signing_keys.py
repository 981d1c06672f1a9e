"""A stored cluster signs nothing without the key of its signing keys: auth as a real process."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lone_auth import CLUSTER, LoneAuth
from tele.auth.authorities import StoredAuthority
from tele.auth.signing_keys import StoredKeyring
from tele.certs.key_sealing import KeySeal, unwrap_secret
from tele.model.codec import decode, encode
from tele.tape.key_files import SIGNING_KEY, read_private

#: What every private key of the store has in it: '-----BEGIN ' in base64.
IN_CLEAR = b"LS0tLS1CRUdJTiB"


@pytest.fixture
def auth(tmp_path: Path) -> Iterator[LoneAuth]:
    """An auth that was not started yet."""
    made = LoneAuth(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def store_of(auth: LoneAuth) -> bytes:
    """All bytes of its store, with the log of SQLite."""
    return b"".join(path.read_bytes() for path in auth.data_dir.glob("auth.sqlite*"))


def refusal(auth: LoneAuth) -> str:
    """What it says that does not start."""
    done = subprocess.run(
        auth.words(), cwd=auth.folder, env=auth.surroundings, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr + done.stdout


def pins(auth: LoneAuth) -> str:
    """The fingerprints and pins of its CAs."""
    done = auth.run("ca", "status", "--config", str(auth.config))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_store_has_no_key_in_clear(auth: LoneAuth) -> None:
    """Of a new cluster; auth starts again, also by another key that was named; a key that is lost
    is not made anew, and the refusal says what to restore.
    """
    recovery = auth.folder / "recovery.key"
    made = auth.run("ca", "keygen", f"file:{recovery}")
    auth.settings = f"signing_keys: {{also_for: ['{made.stdout.strip()}']}}"
    auth.start()
    before = pins(auth)
    assert b"/authorities/user" in store_of(auth)
    assert IN_CLEAR not in store_of(auth)
    auth.kill()
    key = auth.data_dir / "signing.key"
    shutil.move(key, auth.folder / "lost.key")
    assert f"{key} is missing" in (said := refusal(auth))
    assert "restore it from the backup" in said
    assert not key.exists()
    other = auth.folder / "other.key"
    auth.run("ca", "keygen", f"file:{other}")
    auth.settings = f"signing_keys: {{sealed_by: 'file:{other}'}}"
    auth.configure()
    assert f"do not open with file:{other}" in (said := refusal(auth))
    assert made.stdout.strip() in said
    auth.settings = f"signing_keys: {{sealed_by: 'file:{recovery}'}}"
    auth.start()
    assert pins(auth) == before
    auth.stop()
    assert IN_CLEAR not in store_of(auth)


def write_in_clear(auth: LoneAuth) -> None:
    """Make its store one of an older version, with all keys in clear."""
    private = read_private((auth.data_dir / "signing.key").read_bytes(), SIGNING_KEY)
    with closing(sqlite3.connect(auth.data_dir / "auth.sqlite")) as store, store:
        (row,) = store.execute("SELECT value FROM items WHERE key = '/signing-keys/self'")
        secret = unwrap_secret(decode(StoredKeyring, row[0]).wrapped, private, CLUSTER)
        seal = KeySeal(secret, os.urandom)
        rows = store.execute("SELECT key, value FROM items WHERE key GLOB '/authorities/*'")
        for key, value in rows.fetchall():
            plain = encode(decode(StoredAuthority, value).with_keys(seal.open))
            store.execute("UPDATE items SET value = ? WHERE key = ?", (plain, key))
        store.execute("DELETE FROM items WHERE key = '/signing-keys/self'")
    (auth.data_dir / "signing.key").unlink()


def test_the_store_of_an_older_version(auth: LoneAuth) -> None:
    """Its keys are sealed at the first start; nothing of them stays in its files after the second;
    a line says what a backup needs now.
    """
    auth.start()
    before = pins(auth)
    auth.stop()
    write_in_clear(auth)
    assert IN_CLEAR in store_of(auth)
    auth.start()
    assert pins(auth) == before
    assert "signing keys are sealed now: back up the key" in auth.log.read_text()
    auth.stop()
    auth.start()
    assert IN_CLEAR not in store_of(auth)
