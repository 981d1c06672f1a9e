"""A real S3 server: OpenStack Swift with its S3 interface, one device, for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from attrs import frozen

ACCESS: Final = "rec:admin"
SECRET: Final = "secretkey"
BUCKET: Final = "recordings"
RING_BUILDER: Final = shutil.which("swift-ring-builder")
#: All programs are there.
INSTALLED: Final = all(
    shutil.which(program)
    for program in (
        "swift-ring-builder", "swift-proxy-server", "swift-account-server",
        "swift-container-server", "swift-object-server", "memcached",
    )
)  # fmt: skip

_SERVER = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
workers = 0
user = {user}
swift_dir = {folder}
log_address = {folder}/none
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""

_PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
user = {user}
swift_dir = {folder}
log_address = {folder}/none
[pipeline:main]
pipeline = catch_errors cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memcached}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_rec_admin = secretkey .admin .reseller_admin
user_rec_reader = readerkey
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


@frozen
class Swift:
    """A server that runs. ``port`` serves S3 on 127.0.0.1, without TLS."""

    port: int
    folder: Path

    @property
    def credentials(self) -> dict[str, str]:
        """The environment that has the right credentials, and no others."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(self.folder / "no-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "no-credentials"),
        }

    def arguments(self, prefix: str = "tele", port: int | None = None) -> str:
        """What comes after ``s3:`` for the bucket of tests."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        return f"//{BUCKET}/{prefix}?endpoint={endpoint}&region=us-east-1&path_style=yes"

    def objects(self) -> list[str]:
        """All keys of the bucket: what tests may list, and tele never does."""
        with self._client() as client:
            found = client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
            return [each["Key"] for each in found]

    def make_bucket(self) -> None:
        """Make the bucket of tests."""
        with self._client() as client:
            client.create_bucket(Bucket=BUCKET)

    @contextmanager
    def _client(self) -> Iterator[Any]:
        from botocore.session import Session

        client: Any = Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
        )
        try:
            yield client
        finally:
            client.close()


def _free_ports(count: int) -> list[int]:
    taken = [socket.socket() for _ in range(count)]
    try:
        for each in taken:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in taken]
    finally:
        for each in taken:
            each.close()


@contextmanager
def running_swift(folder: Path) -> Iterator[Swift]:
    """Run a server in ``folder``, which is removed by the caller."""
    ports = dict(
        zip(("account", "container", "object", "proxy", "memcached"), _free_ports(5), strict=True)
    )
    (folder / "devices" / "sda1").mkdir(parents=True)
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = test\nswift_hash_path_prefix = test\n"
    )
    user = "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody")
    for kind in ("account", "container", "object"):
        text = _SERVER.format(port=ports[kind], folder=folder, kind=kind, user=user)
        (folder / f"{kind}.conf").write_text(text)
        builder = f"{kind}.builder"
        for words in (
            ("create", "2", "1", "1"),
            ("add", f"r1z1-127.0.0.1:{ports[kind]}/sda1", "1"),
            ("rebalance",),
        ):
            subprocess.run(
                [str(RING_BUILDER), builder, *words], cwd=folder, check=True, capture_output=True
            )
    (folder / "proxy.conf").write_text(
        _PROXY.format(port=ports["proxy"], memcached=ports["memcached"], folder=folder, user=user)
    )
    environment = {**os.environ, "SWIFT_DIR": str(folder)}
    commands = [["memcached", "-l", "127.0.0.1", "-p", str(ports["memcached"]), "-u", "nobody"]]
    commands += [
        [f"swift-{kind}-server", str(folder / f"{kind}.conf")]
        for kind in ("account", "container", "object", "proxy")
    ]
    running = []
    try:
        for command in commands:
            with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
                running.append(
                    subprocess.Popen(
                        command, stdout=log, stderr=log, env=environment, start_new_session=True
                    )
                )
        swift = Swift(ports["proxy"], folder)
        _wait_for(swift, running)
        yield swift
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(swift: Swift, running: list[subprocess.Popen[bytes]]) -> None:
    """Wait until the bucket could be made."""
    for _ in range(150):
        for process in running:
            if process.poll() is not None:
                raise AssertionError(f"{process.args!r} ended; see {swift.folder}")
        try:
            swift.make_bucket()
            return
        except Exception:  # botocore's errors are made at run time
            time.sleep(0.2)
    raise AssertionError(f"swift does not answer; see {swift.folder}")
