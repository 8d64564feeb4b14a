"""The shell texts that a container runs to look at, test, move and remove archives, and what their answers mean.

Pure: text out, text in. The scripts are POSIX sh with GNU tar and coreutils, which every container has. An answer
that does not end with `end` is none.
"""

import re
import shlex
from collections.abc import Collection

from apexgpu.errors import ApexError, RefusedError
from apexgpu.models import Reply
from apexgpu.publickeys import parse_key
from apexgpu.snapshots import SUFFIX, Reading, Saved, Sight, archive

NOTE = ".json"
_NOTE_LIMIT = 4000

_LOOK = """\
LC_ALL=C; export LC_ALL
cd {directory} 2>/dev/null || {{ echo nodir; echo end; exit 0; }}
date '+now %s'
df -Pk . | awk 'NR==2 {{ print "free " $4 }}'
probe=.apexgpu-probe.$$
(: >"$probe") 2>/dev/null && rm -f -- "$probe" && echo writable
for f in {user}{suffix} {user}-*{suffix}; do
  [ -f "$f" ] || continue
  stat -c 'file %s %Y %a %n' -- "$f"
  [ -f "$f{note}" ] && {{ printf 'note '; head -c {limit} -- "$f{note}" | tr -d '\\n'; echo; }}
done
echo end
"""

# One reading by several programs at once: what the first one fetches over the network, the others find in memory.
_TEST = """\
LC_ALL=C; export LC_ALL
f={path}
[ -f "$f" ] && [ -r "$f" ] || {{ echo missing; echo end; exit 0; }}
t=$(mktemp -d) || exit 1
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT TERM
stat -c 'before %s %Y' -- "$f"
sha256sum <"$f" >"$t/sum" &
tar -xzOf - --wildcards 'rootfs/etc/hostname' 'rootfs/etc/ssh/ssh_host_*_key.pub' <"$f" >"$t/own" 2>/dev/null &
{{ tar -tzf - <"$f" 2>"$t/tar"; echo "//$?"; }} | awk '
  /^\\/\\// {{ status = substr($0, 3); next }}
  /^rootfs\\// {{ count++ }}
  $0 == "rootfs/" {{ root = 1 }}
  END {{ printf "list %d %d %d\\n", status, count, root }}' >"$t/list" &
gzip -t <"$f" 2>"$t/gzip"
echo "gzip $?"
wait
cat "$t/list"
sed 's/^/sum /' "$t/sum"
sed 's/^/own /' "$t/own"; echo
cat "$t/gzip" "$t/tar" | grep . | head -n 3 | sed 's/^/said /'
stat -c 'after %s %Y' -- "$f"
echo end
"""

_STAT = """\
stat -c 'after %s %Y' -- {path} 2>/dev/null || echo missing
echo end
"""

# A rename when the directory allows it: it takes no time and no room. Never a link: tar writes into the same file.
_ASIDE = """\
LC_ALL=C; export LC_ALL
umask 077
from={source}; to={target}
[ -f "$from" ] || {{ echo missing; echo end; exit 0; }}
[ -e "$to" ] && {{ echo 'failed there is such a file already'; echo end; exit 0; }}
if mv -- "$from" "$to" 2>/dev/null && [ -f "$to" ] && [ ! -e "$from" ]; then
  echo renamed
  [ -f "$from{note}" ] && mv -f -- "$from{note}" "$to{note}"
elif cp -p -- "$from" "$to.part" && cmp -s -- "$from" "$to.part" && mv -- "$to.part" "$to"; then
  echo copied
  [ -f "$from{note}" ] && cp -p -- "$from{note}" "$to{note}"
else
  rm -f -- "$to.part"
  echo 'failed it can neither be renamed nor copied there'
fi
chmod 600 -- "$to" 2>/dev/null || sudo -n chmod 600 -- "$to" 2>/dev/null
echo end
"""

_BACK = """\
from={source}; to={target}
if [ -f "$from" ] && mv -f -- "$from" "$to"; then
  echo renamed
  rm -f -- "$to{note}"
  [ -f "$from{note}" ] && mv -f -- "$from{note}" "$to{note}"
else
  echo 'failed it cannot be renamed'
fi
echo end
"""

_NOTE = """\
umask 077
printf '%s\\n' {text} >{path}{note}.part && mv -f -- {path}{note}.part {path}{note} && echo done
echo end
"""

_REMOVE = """\
rm -f -- {path} {path}{note} 2>/dev/null
[ -e {path} ] || echo done
echo end
"""

_MODE = """\
chmod {mode} -- {path} 2>/dev/null && echo done
echo end
"""


def look(directory: str, user: str) -> str:
    """What lies in the archives' directory; whether it may be written is tried, not asked."""
    return _LOOK.format(directory=shlex.quote(directory), user=user, suffix=SUFFIX, note=NOTE, limit=_NOTE_LIMIT)


def test(path: str) -> str:
    """Read an archive to its end with gzip, tar and sha256sum."""
    return _TEST.format(path=shlex.quote(path))


def stat(path: str) -> str:
    """Size and time of one file."""
    return _STAT.format(path=shlex.quote(path))


def aside(source: str, target: str) -> str:
    """Rename, or else copy, an archive and its manifest to another name, readable by its owner only."""
    return _ASIDE.format(source=shlex.quote(source), target=shlex.quote(target), note=NOTE)


def back(source: str, target: str) -> str:
    """Rename an archive and its manifest over another."""
    return _BACK.format(source=shlex.quote(source), target=shlex.quote(target), note=NOTE)


def note(path: str, text: str) -> str:
    """Write a manifest beside an archive."""
    return _NOTE.format(path=shlex.quote(path), text=shlex.quote(text), note=NOTE)


def remove(path: str) -> str:
    """Delete an archive and its manifest."""
    return _REMOVE.format(path=shlex.quote(path), note=NOTE)


def mode(path: str, bits: str) -> str:
    """Change who may read an archive."""
    return _MODE.format(path=shlex.quote(path), mode=bits)


def words(reply: Reply, host: str) -> list[tuple[str, str]]:
    """The lines of an answer as (first word, rest); ApexError when it was cut."""
    lines = reply.out.replace("\r", "").split("\n")
    if "end" not in lines:
        last = next((line for line in reversed((reply.out + reply.err).split("\n")) if line.strip()), "nothing")
        message = f"the container on {host} could not look at the archives; it said: {last.strip()[:200]}"
        raise ApexError(message, hint=f"apexgpu ssh {host} -- df -h /NAS", code="eye")
    pairs = (line.partition(" ") for line in lines[: lines.index("end")])
    return [(word, rest) for word, _, rest in pairs]


def saw(reply: Reply, host: str, *, directory: str, user: str, hosts: Collection[str]) -> Sight:
    """The answer to `look`; RefusedError where the container does not see the directory."""
    said = words(reply, host)
    if ("nodir", "") in said:
        raise RefusedError(f"the container on {host} does not see {directory}", hint=f"apexgpu status {host}",
                           code="no_nas")  # fmt: skip
    first = dict(reversed(said))
    found: list[Saved | None] = []
    for index, (word, rest) in enumerate(said):
        match = re.fullmatch(r"(\d+) (\d+) ([0-7]+) (.+)", rest) if word == "file" else None
        if match:
            following = said[index + 1] if index + 1 < len(said) else ("", "")
            text = following[1] if following[0] == "note" else None
            seen = (int(match[1]), int(match[2]), int(match[3], 8))
            found.append(archive(user, hosts, f"{directory}/{match[4]}", seen, text))
    free = first.get("free", "")
    now = first.get("now", "")
    return Sight(
        tuple(sorted((one for one in found if one), key=lambda one: one.created)),
        int(free) << 10 if free.isdigit() else None, "writable" in first, int(now) if now.isdigit() else 0,
    )  # fmt: skip


def tested(reply: Reply, host: str, path: str) -> Reading:
    """The answer to `test`; RefusedError `no_snapshot` where there is nothing that can be read."""
    said = words(reply, host)
    if ("missing", "") in said:
        message = f"the container on {host} sees no archive {path} that it can read"
        raise RefusedError(message, hint="apexgpu snapshots", code="no_snapshot")
    first = dict(reversed(said))
    try:
        status, members, rooted = (int(number) for number in first["list"].split())
        before, (size, time) = first["before"], (int(number) for number in first["after"].split())
        code = int(first["gzip"])
    except (KeyError, ValueError):
        raise ApexError(f"the test of {path} on {host} gave no result", code="eye",
                        hint=f"apexgpu snapshots verify {path}") from None  # fmt: skip
    own = [rest for word, rest in said if word == "own" and rest.strip()]
    keys = tuple(key for line in own if (key := parse_key(line)) is not None)
    names = [line.strip() for line in own if parse_key(line) is None]
    return Reading(
        size, time, before != first["after"], code, status, members, bool(rooted), first.get("sum", "")[:64],
        names[0] if names else "", keys, first.get("said", ""),
    )  # fmt: skip


def standing(reply: Reply, host: str) -> tuple[int, int] | None:
    """The answer to `stat`: size and time, None when there is no such file."""
    after = dict(words(reply, host)).get("after")
    if after is None:
        return None
    size, time = after.split()
    return int(size), int(time)


def moved(reply: Reply, host: str) -> str | None:
    """The answer to `aside` or `back`: "renamed", "copied", or None when there was nothing; RefusedError when not."""
    said = words(reply, host)
    for word, rest in said:
        if word in {"renamed", "copied"}:
            return word
        if word == "failed":
            raise RefusedError(f"the archive cannot be moved: {rest}", code="not_writable",
                               hint="ask the administrators for a directory there that you may write")  # fmt: skip
    return None


def did(reply: Reply, host: str) -> bool:
    """The answer to `note`, `remove` and `mode`."""
    return ("done", "") in words(reply, host)
