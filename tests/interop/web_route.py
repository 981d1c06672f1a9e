"""A terminal of the pages, without a browser, on a node of a real cluster."""

from __future__ import annotations

import base64
import json
import os
import pwd
import subprocess
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pages_bundle import bundle
from three_processes import Cluster

LOGIN: Final = pwd.getpwuid(os.geteuid()).pw_name


def terminal(
    cluster: Cluster, node: str, folder: Path, typed: str, *, login: str = LOGIN, host_id: str = ""
) -> Any:
    """Open one on ``node`` and type; return what it showed, or why it was refused.

    With ``host_id`` the page asks for that node, whatever ``node`` is.
    """
    listed = json.loads(cluster.tele("ls", "--format", "json").stdout)
    found = host_id or next(each["id"] for each in listed if each["name"] == node)
    local = ("--config", str(cluster.folder / "auth.yaml"))
    exported = cluster.tele("ca", "export", "--type", "host", "--format", "openssh", *local).stdout
    private = ec.generate_private_key(ec.SECP256R1())
    public = folder / "page.pub"
    public.write_bytes(private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    cluster.tele("ca", "sign-user", str(public), "--user", "alice")
    pkcs8 = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    done = subprocess.run(
        ["node", str(bundle("route", folder))],
        input=json.dumps({
            "port": cluster.ports["proxy"],
            "target": {
                "cluster": cluster.name, "user": "alice", "login": login, "hostId": found,
                "authorities": [
                    # ``@cert-authority NAMES TYPE KEY`` or ``TYPE KEY``.
                    " ".join(words[2:4] if words[0].startswith("@") else words[:2])
                    for words in map(str.split, exported.decode().splitlines())
                ],
            },
            "key": base64.b64encode(pkcs8).decode(),
            "certificate": (folder / "page-cert.pub").read_text(),
            "typed": typed,
        }),
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)
