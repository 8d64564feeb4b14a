"""The ssh option that leaves out an ssh-agent that does not answer, for the ssh processes that apexgpu starts.

ssh waits for its agent forever: for one whose vault is locked, or that was forwarded from a machine that is gone.
Without it, ssh logs in with the key files, or reports that the server refuses it.
"""

import os

from apexgpu.ssh import sshoptions
from apexgpu.ssh.route import Route
from apexgpu.sshfiles.agentquery import DEFAULT_AGENT, Agents, AgentState, agent_socket


def options(route: Route, agents: Agents) -> tuple[str, ...]:
    """`IdentityAgent=none` if the agent that ssh would ask on this route does not answer, else nothing.

    The agent is asked at most once in a run, with a time limit.
    """
    return options_for(socket_on(route), agents)


def options_for(socket: str, agents: Agents) -> tuple[str, ...]:
    """As `options`, for the agent at `socket`."""
    if agents.ask(socket).state is AgentState.SILENT:
        return (sshoptions.NO_AGENT,)
    return ()


def socket_on(route: Route) -> str:
    """The socket of the agent that ssh asks on this route; "" if it asks none."""
    return agent_socket(route.option("identityagent", DEFAULT_AGENT), os.environ)
