"""How does ``tele ssh`` show the second factor that a role wants for each session?

With a key of its own and a certificate of a minute for one node, in a folder that only OpenSSH of
this command reads.

Invariant: what is left of earlier sessions is removed by the next one, and by ``tele logout``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tele.cli.auth_client import Where, open_authority
from tele.cli.home import Files, Home, Profile, private_folder
from tele.cli.openssh import ssh_config_with
from tele.cli.output import print_notice
from tele.cli.second_factors import with_factor
from tele.errors import Unavailable, Unreachable

if TYPE_CHECKING:
    from tele.model.second_factors import SecondFactor

#: How long a folder is kept: ssh has read it long before that.
KEPT_SECONDS: Final = 300.0


def _folder(files: Files) -> Path:
    return files.folder / f"{files.user}-sessions"


def remove_session_files(files: Files) -> None:
    """Remove the keys of all sessions; OpenSSH has read those of sessions that run."""
    shutil.rmtree(_folder(files), ignore_errors=True)


def _remove_old(folder: Path) -> None:
    for each in folder.iterdir():
        try:
            if time.time() - each.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(each, ignore_errors=True)
        except OSError:
            continue  # removed by another command at the same time


def session_configuration(
    profile: Profile, target: str, where: tuple[str | None, str | None, str | None]
) -> list[str] | None:
    """Return ssh's options for a session on ``target`` ([login@]node), or None: the usual ones.

    Asks for a second factor if a role wants one there.
    """
    from tele.certs.keys import PrivateKey
    from tele.model.api.mfa import CERTIFY_MFA_SESSION, CertifyMfaSession

    node = target.removeprefix("ssh://").rpartition("@")[2].partition(":")[0].rstrip("/")
    node = node.removesuffix(f".{profile.cluster}")
    key = PrivateKey.generate()

    def perform(factor: SecondFactor | None) -> str:
        request = CertifyMfaSession(node, key.public.line, factor)
        return authority.perform(CERTIFY_MFA_SESSION, request).certificate

    try:
        with open_authority(Where(*where)) as authority:
            certificate = with_factor(perform, os.environ.get("TELE_OTP"))
    except (Unreachable, Unavailable) as error:
        # Nodes that ask for none can be reached without auth.
        print_notice(f"note: a second factor cannot be shown now: {error}")
        return None
    if not certificate:
        return None
    home = Home.find()
    folder = _folder(home.files(profile))
    private_folder(folder)
    _remove_old(folder)
    own = Path(tempfile.mkdtemp(dir=folder))
    file, signed, config = own / "key", own / "key-cert.pub", own / "ssh_config"
    for path, text in (
        (file, key.to_openssh()),
        (signed, f"{certificate}\n".encode()),
        (config, ssh_config_with(home, profile, file, signed).encode()),
    ):
        path.touch(0o600)
        path.write_bytes(text)
    return ["-F", str(config)]
