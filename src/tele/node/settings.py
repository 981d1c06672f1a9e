"""What is a node made of: how it is reached, and what its sessions have?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, frozen

from tele.capacity.descriptors import DescriptorBudget, process_budget
from tele.interfaces import IHostUsers, IRecorder, ISessionTracer, ISubsystem, NamedRecorder
from tele.model.access import GatewayPorts
from tele.node.spawning import Spawning

if TYPE_CHECKING:  # a node without tunnels does not import them
    from tele.tunnel.agent import Serve
    from tele.tunnel.agents import Agents

#: Given what serves clients and what is called at changes, makes the tunnels to proxies.
MakeAgents: TypeAlias = "Callable[[Serve, Callable[[], None]], Agents]"


@frozen
class Ingress:
    """How clients reach a node.

    :param listen: interface and port; port 0 is any. None binds no port.
    :param advertise: given the port, the address (``host:port``) that others are told.
    :param agents: makes the tunnels to proxies; None has none.
    """

    listen: tuple[str, int] | None
    advertise: Callable[[int], str]
    agents: MakeAgents | None = None


@frozen
class SessionSettings:
    """What the sessions of a node have.

    :param spawning: starts their processes; opened and closed by the node.
    :param recorder: takes part in every session, or several do; None records nothing.
    :param gateway_ports: whether ports that listen for clients are open to other machines.
    :param subsystems: what clients may ask for by name, beside ``sftp``.
    :param host_users: makes the accounts of this machine that roles want; with None there are none.
    :param makes_accounts: whether roles may have accounts made, or only what there is is released.
    :param tracer: traces programs for roles with ``enhanced_recording``; None traces nothing.
    :param budget: what users may take of the file descriptors of the process.
    """

    spawning: Spawning
    recorder: IRecorder | Sequence[NamedRecorder] | None = None
    gateway_ports: GatewayPorts = GatewayPorts.NO
    subsystems: Sequence[ISubsystem] = ()
    host_users: IHostUsers | None = None
    makes_accounts: bool = True
    tracer: ISessionTracer | None = None
    budget: DescriptorBudget = Factory(process_budget)
