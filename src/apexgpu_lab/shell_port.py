"""The manage shell's `port` command, with the errors of the real one."""

from apexgpu_lab import texts
from apexgpu_lab.shell_call import Call
from apexgpu_lab.texts import heading, headings, highlight

_TOO_GREAT = (
    '/public/login.bash: line 226: [[: {0}: value too great for base (error token is "{0}")\n'
)


async def port(call: Call) -> int:
    """`port` lists the maps, `port P` makes one."""
    addresses = (
        call.lab_state.addresses(call.host, call.container) if call.container.running else []
    )
    if not addresses:
        call.console.out(
            headings(
                "It seems that your container is down", "You need to start your container first"
            )
            + call.command_hint("Start your container")
        )
        return 0
    has_two_addresses = len(addresses) > 1
    if not call.argument:
        call.console.out(
            headings(
                "If you'd like to forward a port from your container,",
                "please run the following command",
            )
            + f"Port forward: {highlight(f'ssh {call.user}@{call.host.address} port PORT_NUMBER')}\n"
        )
    elif not _is_valid(call):
        call.console.out(f"{call.argument} is not a valid port number\n")
    else:
        _map(call, has_two_addresses=has_two_addresses)
    if has_two_addresses:
        call.console.err(texts.BAD_SCRIPT)
    call.console.out(
        heading("Current port forward") + ("" if has_two_addresses else _list_maps(call))
    )
    return 0


def _is_valid(call: Call) -> bool:
    """Check a port number as the script does: a leading zero makes it octal, and 65536 passes."""
    word = call.argument
    if not (word.isascii() and word.isdigit()):
        return False
    if word.startswith("0") and len(word) > 1:
        if set(word) & {"8", "9"}:
            call.console.err(_TOO_GREAT.format(word))
            return False
        return 0 < int(word, 8) <= 65536
    return 0 < int(word) <= 65536


def _map(call: Call, *, has_two_addresses: bool) -> None:
    """Map a port, unless there is a map to a port that begins with the same digits.

    That is an error of the real script: it searches its list with grep.
    """
    lab_state, host = call.lab_state, call.host
    wanted = call.argument
    found = [
        str(port_map.host_port)
        for port_map in lab_state.maps(host, call.container)
        if has_two_addresses or str(port_map.container_port).startswith(wanted)
    ]
    if found:
        places = "\n".join(found)
        call.console.out(
            f"The port has already been mapped. {host.address}:{places} => container:{wanted}\n"
        )
        return
    host_port = lab_state.next_port(host)
    call.console.out(f"Mapping {host.address}:{host_port} => container:{wanted}...\n")
    if int(wanted) > 65535:
        call.console.err(texts.BAD_IPTABLES.format(wanted))
    else:
        lab_state.forward(host, call.container, int(wanted), host_port)


def _list_maps(call: Call) -> str:
    return texts.lines(
        f"{call.host.address}:{port_map.host_port} => container:{port_map.container_port}"
        for port_map in call.lab_state.maps(call.host, call.container)
    )
