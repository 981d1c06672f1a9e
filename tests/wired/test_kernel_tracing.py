"""The node's side of the kernel's tracer: what it does when that refuses, dies or says nonsense."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from own_reactor import OwnReactor, own_reactor
from tele.errors import Unavailable
from tele.interfaces import ITrace
from tele.model.trace import Traced, TracedProgram, TraceKind, TraceLost
from tele.node.kernel_checks import traced_kinds
from tele.plugins.kernel_tracing import KernelTracer

READY = '{"event": "ready", "kinds": ["command"], "missing": {"disk": "too old"}}'
#: A tracer that does what a test says of each request.
PROGRAM = """
import json, socket, sys, time
channel = socket.socket(fileno=int(sys.argv[1]))
def tell(text): channel.send(text.encode() if isinstance(text, str) else text)
{first}
while data := channel.recv(65536):
    message = json.loads(data)
    number, op = message["id"], message["op"]
    if op == "start":
        {start}
    elif op == "flush":
        tell('{{"event": "flushed", "id": %d}}' % number)
    else:
        tell('{{"event": "stopped", "id": %d, "records": 0, "lost": 0}}' % number)
"""
STARTED = """tell('{"event": "started", "id": %d}' % number)"""


@define
class World:
    """A tracer whose process is a test's."""

    reactor: OwnReactor
    folder: Path
    made: list[KernelTracer] = field(factory=list)
    seen: list[Traced | TraceLost] = field(factory=list)

    def tracer(self, start: str = STARTED, first: str = f"tell('''{READY}''')") -> KernelTracer:
        """Return a tracer whose process says ``first``, and ``start`` to each program."""
        program = self.folder / "program.py"
        program.write_text(PROGRAM.format(first=first, start=start))
        self.made.append(KernelTracer(self.reactor, program))
        return self.made[-1]

    def open(self, tracer: KernelTracer, *kinds: TraceKind) -> ITrace:
        """Begin to trace a program."""
        program = TracedProgram("s", 1, "alice", "root", kinds or (TraceKind.COMMAND,))
        found: Any = self.reactor.wait(tracer.open(program, self.seen.append))
        trace: ITrace = found
        return trace


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A reactor; all tracers are stopped at the end."""
    with own_reactor() as reactor:
        made = World(reactor, tmp_path)
        yield made
        for tracer in made.made:
            with contextlib.suppress(Unavailable):
                reactor.wait(tracer.stop())


def test_programs_have_numbers_and_end(world: World) -> None:
    """One process traces them all."""
    tracer = world.tracer()
    one, two = world.open(tracer), world.open(tracer)
    assert (one.number, two.number) == (1, 2)
    for each in (one, two):
        world.reactor.wait(each.flush())
        world.reactor.wait(each.close())
        world.reactor.wait(each.close())
    assert world.seen == []


def test_what_the_kernel_left_out_is_a_loss(world: World) -> None:
    """Whose record it would have been is not known: each session is told, and a strict one ends."""
    answer = '{"event": "flushed", "id": %d, "missed": 3}'
    tracer = world.tracer(start=f"{STARTED}; channel.recv(999); tell('''{answer}''' % number)")
    world.reactor.wait(world.open(tracer).flush())
    assert world.seen == [TraceLost(0, 0, 3)]


def test_what_is_missing_is_known_once_it_runs(world: World) -> None:
    """A kind that this kernel cannot trace is refused with its reason."""
    tracer = world.tracer()
    world.open(tracer)
    assert tracer.missing() == {TraceKind.DISK: "too old"}
    with pytest.raises(Unavailable, match="disk: too old"):
        world.open(tracer, TraceKind.COMMAND, TraceKind.DISK)


def test_a_tracer_that_cannot_run_says_why(world: World) -> None:
    """All kinds are missing from then on: auth lists it."""
    why = '{"event": "unavailable", "reason": "no_btf", "message": "there is no BTF"}'
    tracer = world.tracer(first=f"tell('''{why}'''); sys.exit()")
    with pytest.raises(Unavailable, match="there is no BTF"):
        world.open(tracer)
    assert tracer.missing() == dict.fromkeys(TraceKind, "there is no BTF")


@pytest.mark.parametrize("first", ["sys.exit()", "tell('nonsense')", "tell(b'R' + bytes(9))"])
def test_a_tracer_that_does_not_begin(world: World, first: str) -> None:
    """The program does not start, and the next one tries again."""
    tracer = world.tracer(first=first)
    for _ in range(2):
        with pytest.raises(Unavailable, match="the tracer of this node ended"):
            world.open(tracer)


def test_a_program_that_the_tracer_refuses(world: World) -> None:
    """With the tracer's own words; others go on."""
    refusal = '{"event": "failed", "id": %d, "message": "too many"}'
    tracer = world.tracer(start=f"tell('''{refusal}''' % number)")
    with pytest.raises(Unavailable, match="too many"):
        world.open(tracer)


@pytest.mark.parametrize("end", ["sys.exit()", "tell('nonsense')", "tell(b'R' + bytes(9))"])
def test_a_tracer_that_dies_has_lost_the_rest(world: World, end: str) -> None:
    """Programs that ran are told so at once; the next one gets a new tracer."""
    tracer = world.tracer(start=f"{STARTED}; number > 1 and ({end})")
    first = world.open(tracer)
    program = TracedProgram("s", 1, "alice", "root", (TraceKind.COMMAND,))
    second = tracer.open(program, world.seen.append)
    second.addErrback(lambda _: None)
    world.reactor.until(lambda: bool(world.seen))
    assert world.seen[0] == TraceLost(1, 0)
    world.reactor.wait(first.flush())
    world.reactor.wait(first.close())
    tracer._number = 0  # the test's program ends with the second one
    assert world.open(tracer).number == 1


def test_the_check_asks_the_tracer_itself(tmp_path: Path) -> None:
    """What it says once is what ``tele node check`` prints."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(first=f"tell('''{READY}''')", start="pass"))
    assert traced_kinds(program) == {"command": "", "disk": "too old"}
    program.write_text("raise SystemExit(1)")
    assert "does not answer" in traced_kinds(program)["tracer"]
