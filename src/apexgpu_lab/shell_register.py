"""The register account: the one command that makes a user's account and container on a host."""

from apexgpu_lab import texts
from apexgpu_lab.console import Console
from apexgpu_lab.containers import Account, Host
from apexgpu_lab.labstate import LabState
from apexgpu_lab.shell_call import GARBLE, iam_answers
from apexgpu_lab.texts import highlight, link

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


async def run_register_shell(
    lab_state: LabState, host: Host, command: str | None, console: Console
) -> int:
    """Answer one login to `register`; the exit status. Only the first word counts."""
    if lab_state.faults.trigger(host.name, "garble"):
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
    console.out(
        f"Allocating LXC Container for {highlight(user)}...\nFetchting IAM information...\n"
    )
    if not await iam_answers(lab_state, host) or user not in lab_state.users.registered:
        console.out(f"Failed to get IAM information. Maybe visit {link(texts.IAM_SITE)}\n")
        return 1
    await _make(lab_state, host, user, console)
    console.out("Done!\n")
    return 0


async def _make(lab_state: LabState, host: Host, user: str, console: Console) -> None:
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
    if not lab_state.faults.trigger(host.name, "half-made"):
        account.keys = lab_state.users.keys.get(user, "")
        lab_state.add_container(host, account)
        account.half_made = False
