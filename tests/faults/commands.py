"""How a program of this folder runs as a command: in a folder of its own, with a seed."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

# The cluster of three processes; with pytest it is there already.
sys.path.append(str(Path(__file__).resolve().parents[1] / "interop"))

Fault = Callable[[Path, int, random.Random], Counter[str]]


def say(text: str) -> None:
    """Notify all that wait."""
    print(text, file=sys.stderr, flush=True)


def main(fault: Fault, what: str, default: int) -> None:
    """Run ``fault(folder, count, dice)`` as a command; ``what`` is what it counts."""
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").strip())
    parser.add_argument(f"--{what}", dest="count", type=int, default=default)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(48))
    words = parser.parse_args()
    say(f"seed {words.seed}")
    with tempfile.TemporaryDirectory(prefix="tele-faults.") as folder:
        found = fault(Path(folder), words.count, random.Random(words.seed))
    print(json.dumps({what: words.count, "seed": words.seed, **found}))
