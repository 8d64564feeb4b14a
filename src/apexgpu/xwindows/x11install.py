"""What windows need in a container, through its apt: what is sent there, and what its answer means."""

import shlex
from dataclasses import dataclass

from apexgpu.errors import ApexError, RefusedError, UnreachableError
from apexgpu.hosts.manage import OnLine
from apexgpu.hosts.sent import MARK
from apexgpu.models import Host, Reply, Target
from apexgpu.ssh.transport import Limits, Transport

SMALL = ("xauth", "x11-apps")
FULL = (*SMALL, "xorg")
LOCK = 120
"""Seconds that another apt is waited for."""
_WHOLE = 3600.0
_SILENT = 600.0  # apt says something every few seconds; a mirror may be slow

# apt works in a session of its own and writes to a file, which is followed: when this connection is lost, or on
# Ctrl-C, it goes on to its end, and dpkg is never cut in the middle. An option of apt to wait for the lock is newer
# than Ubuntu 18.04 (apt 1.9.11), hence the loop. The lists are fetched anew only when apt misses something.
_SCRIPT = r"""
export LC_ALL=C
need=
for p in $1; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || need="$need $p"; done
[ -n "$need" ] || { echo "$3 present"; exit 0; }
command -v apt-get >/dev/null 2>&1 || { echo "$3 no_apt"; exit 0; }
sudo -n true 2>/dev/null || { echo "$3 no_sudo"; exit 0; }
echo "installing$need"
log=$(mktemp) || { echo "$3 no_room"; exit 0; }
cat >"$log.sh" <<'END'
log=$1; need=$2; end=$(($(date +%s) + $3))
apt() {
  while :; do
    sudo -n env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o Acquire::Retries=2 \
      -o Acquire::http::Timeout=30 "$@" >"$log.one" 2>&1 </dev/null
    code=$?
    cat "$log.one" >>"$log"
    grep -q 'Could not get lock\|Unable to lock\|Unable to acquire the dpkg' "$log.one" || return $code
    [ "$(date +%s)" -lt "$end" ] || return 99
    echo 'waiting for another apt' >>"$log"
    sleep 2
  done
}
install() { apt install --no-install-recommends $need; }
install
code=$?
old='Unable to locate\|no installation candidate\|404 \|Unable to fetch\|Hash Sum'
if [ $code -ne 0 ] && grep -q "$old" "$log"; then
  echo 'fetching the lists of packages' >>"$log"
  apt update
  install
  code=$?
fi
echo $code >"$log.code.new"; mv "$log.code.new" "$log.code"
END
setsid sh "$log.sh" "$log" "$need" "$2" </dev/null >/dev/null 2>&1 &
seen=0
while :; do
  ended=; [ -f "$log.code" ] && ended=1
  now=$(wc -l <"$log")
  [ "$now" -le "$seen" ] || sed -n "$((seen + 1)),${now}p" "$log"
  seen=$now
  [ -z "$ended" ] || break
  sleep 0.3
done
code=$(cat "$log.code")
rm -f "$log" "$log.sh" "$log.one" "$log.code"
left=
for p in $1; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || left="$left $p"; done
echo "$3 done $code$left"
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """What came of it: the packages that were wanted, and whether anything had to be done."""

    packages: tuple[str, ...]
    changed: bool


def command(packages: tuple[str, ...], *, lock: int = LOCK) -> str:
    """The command line for the container's shell."""
    return shlex.join(["sh", "-c", _SCRIPT, "apexgpu", " ".join(packages), str(lock), MARK.strip()])


def install(link: Transport, host: Host, *, full: bool, on_line: OnLine) -> Installed:
    """Install them where they are missing; RefusedError with apt's last words when that fails."""
    packages = FULL if full else SMALL
    said: list[str] = []

    def line(text: str) -> None:
        if not text.startswith(MARK) and text.strip():
            said.append(text.strip())
            on_line(text.strip())

    limits = Limits(total=_WHOLE, silence=_SILENT)
    reply = link.run(Target(host, "container"), command(packages), limits=limits, on_line=line, once=True)
    verdict = _verdict(reply, host)
    if verdict == ["present"]:
        return Installed(packages, changed=False)
    if verdict[:2] == ["done", "0"] and not verdict[2:]:
        return Installed(packages, changed=True)
    raise _failure(host, verdict, said, packages)


def _verdict(reply: Reply, host: Host) -> list[str]:
    marked = [line for line in reply.out.splitlines() if line.startswith(MARK)]
    if not marked:
        words = next((line for line in reversed(reply.err.splitlines()) if line.strip()), f"status {reply.code}")
        raise ApexError(f"the container on {host.name} answered something apexgpu does not know: {words[:300]}",
                        hint=f"apexgpu ssh {host.name} -- apt-get --version", code="unexpected")  # fmt: skip
    return marked[-1].removeprefix(MARK).split()


def _failure(host: Host, verdict: list[str], said: list[str], packages: tuple[str, ...]) -> ApexError:
    where, name = f"the container on {host.name}", host.name
    by_hand = f'apexgpu ssh {name} -- "sudo apt-get update && sudo apt-get install -y {" ".join(packages)}"'
    if verdict[0] == "no_sudo":
        return RefusedError(f"sudo in {where} asks for a password", hint=f"apexgpu ssh {name}   (then: sudo apt-get "
                            f"install {' '.join(packages)})", code="no_sudo")  # fmt: skip
    if verdict[0] != "done":
        why = {"no_apt": "has no apt-get", "no_room": "has no room in /tmp"}.get(verdict[0], "is of an unknown kind")
        return RefusedError(f"{where} {why}", hint=f"apexgpu ssh {name} -- df -h /tmp", code=verdict[0])
    if verdict[1] == "99":
        return UnreachableError(f"another apt has been at work in {where} for {LOCK} s: {_last(said)}",
                                hint=f'apexgpu ssh {name} -- "ps aux | grep -e apt -e dpkg"',
                                code="apt_locked")  # fmt: skip
    if verdict[1] == "0":
        return RefusedError(f"apt in {where} says that it is done, and {', '.join(verdict[2:])} is not installed",
                            hint=by_hand, code="apt_failed")  # fmt: skip
    if any("dpkg was interrupted" in line or "dpkg --configure -a" in line for line in said):
        return RefusedError(f"an earlier installation in {where} was interrupted",
                            hint=f'apexgpu ssh {name} -- "sudo dpkg --configure -a" && apexgpu x11 install {name}',
                            code="dpkg_interrupted")  # fmt: skip
    if any("No space left" in line or "enough free space" in line for line in said):
        return RefusedError(f"there is no room for them in {where}", hint=f"apexgpu ssh {name} -- df -h /", code="full")
    return RefusedError(f"apt failed in {where}: {_last(said)}", hint=by_hand, code="apt_failed")


def _last(said: list[str]) -> str:
    """Apt's last words: its errors before anything else."""
    errors = [line for line in said if line.startswith(("E: ", "dpkg: error"))]
    return (errors or said or ["it says nothing"])[-1]
