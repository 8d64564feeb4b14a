"""The register account: the one command that makes a user's account and container on a host."""

from apexgpu_lab import texts
from apexgpu_lab.console import Console
from apexgpu_lab.containers import Account, Host
from apexgpu_lab.shell_call import GARBLE, iam_answers
from apexgpu_lab.texts import link, mark
from apexgpu_lab.world import World

_SYSTEM_ACCOUNTS = frozenset(
    {
        "backup",
        "bin",
        "daemon",
        "games",
        "lp",
        "mail",
        "man",
        "nobody",
        "ntp",
        "proxy",
        "register",
        "root",
        "sshd",
        "sync",
        "sys",
        "syslog",
        "www-data",
    }
)


async def register(world: World, host: Host, command: str | None, console: Console) -> int:
    """Answer one login to `register`; the exit status. Only the first word counts."""
    if world.faults.take(host.name, "garble"):
        console.out(GARBLE)
        return 0
    words = (command or "").split()
    if not words:
        console.out("Please give me a username\n")
        return 1
    user = words[0]
    if user in host.accounts or user in _SYSTEM_ACCOUNTS:
        console.out(f"User {user} already exist\n")
        return 1
    console.out(f"Allocating LXC Container for {mark(user)}...\nFetchting IAM information...\n")
    if not await iam_answers(world, host) or user not in world.roster.registered:
        console.out(f"Failed to get IAM information. Maybe visit {link(texts.IAM_SITE)}\n")
        return 1
    await _make(world, host, user, console)
    console.out("Done!\n")
    return 0


async def _make(world: World, host: Host, user: str, console: Console) -> None:
    """The steps; a client that goes meanwhile leaves an account without a container."""
    console.out("Creating user...\n")
    account = host.accounts[user] = Account(user, half_made=True)
    await console.wait(0.1)
    console.out("Granting LXC virtual network permission...\n")
    await console.wait(0.1)
    console.out("Cloning the container...\n")
    await console.wait(0.2)
    console.out("Fixing filesystem permission...\n")
    await console.wait(0.1)
    console.out("Adding user in the container...\n")
    if not world.faults.take(host.name, "half-made"):
        account.keys = world.roster.keys.get(user, "")
        world.add_container(host, account)
        account.half_made = False
