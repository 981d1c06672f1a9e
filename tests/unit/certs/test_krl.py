"""Lists of revoked certificates, as OpenSSH reads them."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tele.certs.certificate import Certificate
from tele.certs.issue import UserCertificateRequest, issue_user
from tele.certs.keys import PrivateKey
from tele.certs.krl import MAGIC, write_krl
from tele.certs.suites import SignatureSuite
from tele.wire.fields import string

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
#: The types of keys that OpenSSH here knows.
KNOWN = (
    subprocess.run(["ssh", "-Q", "key"], capture_output=True, check=True).stdout.decode().split()
    if shutil.which("ssh")
    else []
)


def certificate(authority: PrivateKey, number: int) -> Certificate:
    """Issue one, with the serial ``number``."""
    request = UserCertificateRequest("alice", "c", ("root",), (), "s")

    def entropy(size: int) -> bytes:
        return number.to_bytes(size, "big")

    return issue_user(authority, PrivateKey.generate().public.blob, request, NOW, entropy)


def revoked(path: Path, *made: Certificate) -> list[bool]:
    """Ask ssh-keygen about each certificate."""
    found = []
    for each in made:
        file = path.parent / f"{each.serial}-cert.pub"
        file.write_text(f"{each.line}\n")
        done = subprocess.run(
            ["ssh-keygen", "-Q", "-f", path, file], capture_output=True, text=True, check=False
        )
        assert ("REVOKED" in done.stdout) == (done.returncode == 1), done.stdout + done.stderr
        assert done.returncode in (0, 1), done.stderr
        found.append(done.returncode == 1)
    return found


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")
@pytest.mark.parametrize("suite", [each for each in SignatureSuite if each.key_type in KNOWN])
def test_ssh_keygen_reads_it(tmp_path: Path, suite: SignatureSuite) -> None:
    """The serials that are listed are revoked, of each authority that is listed, and no others."""
    one, other, unlisted = (suite.generate() for _ in range(3))
    serials = (1, 2, 1 << 63, (1 << 64) - 1, 77)
    mine = [certificate(one, number) for number in serials]
    theirs, foreign = certificate(other, 2), certificate(unlisted, 2)
    path = tmp_path / "krl"
    path.write_bytes(
        write_krl((one.public.blob, other.public.blob), (*serials[:4], 2), NOW, "cluster c")
    )
    assert revoked(path, *mine) == [True, True, True, True, False]
    assert revoked(path, theirs) == [True]
    assert revoked(path, foreign) == [False]


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")
def test_an_openssh_that_does_not_know_the_authority_reads_nothing(tmp_path: Path) -> None:
    """It refuses the list, and does not take it for one that revokes none: sshd lets no user in
    with a list that it cannot read.
    """
    path = tmp_path / "krl"
    path.write_bytes(write_krl((string(b"ssh-new@example.com") + string(bytes(32)),), (1,), NOW))
    file = tmp_path / "key-cert.pub"
    file.write_text(f"{certificate(PrivateKey.generate(), 1).line}\n")
    done = subprocess.run(
        ["ssh-keygen", "-Q", "-f", path, file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 255, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs OpenSSH")
def test_an_empty_list_is_a_list(tmp_path: Path) -> None:
    """OpenSSH refuses all users if there is no file: a cluster without locks has one, too."""
    path = tmp_path / "krl"
    authority = PrivateKey.generate()
    path.write_bytes(write_krl((authority.public.blob,), (), NOW))
    assert revoked(path, certificate(authority, 5)) == [False]


def test_equal_input_makes_equal_bytes() -> None:
    """In any order, each once; the version grows with time."""
    blobs = [PrivateKey.generate().public.blob for _ in range(2)]
    made = write_krl(blobs, (3, 1, 2), NOW)
    assert made == write_krl(blobs[::-1] * 2, (2, 1, 3, 1), NOW)
    later = write_krl(blobs, (3, 1, 2), NOW + timedelta(seconds=1))
    assert made.startswith(MAGIC)
    assert later[12:20] > made[12:20]
