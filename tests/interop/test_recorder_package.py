"""A package of a third party, with a recorder and an archive, is built, installed and used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import three_processes
from three_processes import make_cluster, wait_for

PACKAGE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "recorder_package"
SCRIPTS = {
    "tele": "from tele.cli.main import main; raise SystemExit(main())",
    "twistd": "from twisted.scripts.twistd import run; run()",
}


def run(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the package, installed from a wheel; tele and Twisted are the tests'."""
    folder = tmp_path_factory.mktemp("package")
    source, made = folder / "source", folder / "env"
    shutil.copytree(PACKAGE, source)
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source)
    (wheel,) = folder.glob("tele_example-*.whl")
    run(sys.executable, "-m", "venv", made)
    python = made / "bin" / "python"
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    # As site-packages of the tests' environment, with what its .pth files name.
    (Path(purelib.strip()) / "tests.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    )
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)
    for name, program in SCRIPTS.items():
        (made / "bin" / name).write_text(f"#!{python}\n{program}\n")
        (made / "bin" / name).chmod(0o755)
    return made / "bin"


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")
def test_a_package_of_a_third_party(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its recorder takes part beside the tape, its archive has the recording, which verifies."""
    monkeypatch.setattr(three_processes, "BIN", installed)
    commands, mirrors = tmp_path / "commands.jsonl", [tmp_path / "one", tmp_path / "two"]
    cluster = make_cluster(tmp_path)
    try:
        cluster.stop()
        auth = (tmp_path / "auth.yaml").read_text()
        where = ",".join(map(str, mirrors))
        (tmp_path / "auth.yaml").write_text(auth.replace("}", f", recordings: 'mirror:{where}'}}"))
        with (tmp_path / "node.yaml").open("a") as node:
            node.write(f"  recorder: [tape, 'commands:{commands}']\n")
        for part in ("auth", "proxy", "node"):
            cluster.start(part)
        wait_for(cluster.online, "the node to be online")
        assert cluster.ssh(cluster.host, "echo hello").stdout == b"hello\n"
        wait_for(commands.exists, "the line of the command")
        (line,) = commands.read_text().splitlines()
        row = json.loads(line)
        assert (row["user"], row["kind"], row["command"]) == ("alice", "exec", "echo hello")

        def complete() -> bool:
            return all((root / row["session"] / "manifest").exists() for root in mirrors)

        wait_for(complete, "the recording in both directories")
        shutil.rmtree(mirrors[0] / row["session"])
        done = cluster.tele("recordings", "verify", row["session"])
        assert done.stdout.startswith(b"ok: ")
        played = cluster.tele("play", row["session"], "--format", "text")
        assert b"hello" in played.stdout
    finally:
        cluster.stop()
