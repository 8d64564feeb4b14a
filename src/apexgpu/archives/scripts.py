"""The shell texts that a container runs to look at, test, move and remove archives. Pure.

They are POSIX sh with GNU tar and coreutils, which every container has; `archiveanswers` reads what they say.
"""

import shlex

from apexgpu.archives.catalog import SUFFIX

NOTE = ".json"
_NOTE_LIMIT = 4000

# A name that holds a line's end could say anything in our words, and others may write there: it is passed over.
_LOOK = """\
LC_ALL=C; export LC_ALL
cd {directory} 2>/dev/null || {{ echo nodir; echo end; exit 0; }}
df -Pk . | awk 'NR==2 {{ print "free " $4 }}'
probe=.apexgpu-probe.$$
(: >"$probe") 2>/dev/null && rm -f -- "$probe" && echo writable
for f in {user}{suffix} {user}-*{suffix}; do
  case $f in *"
"*) continue ;; esac
  [ -f "$f" ] || continue
  stat -L -c 'file %s %Y %a %n' -- "$f"
  [ -f "$f{note}" ] && {{ printf 'note '; head -c {limit} -- "$f{note}" | tr -d '\\n'; echo; }}
done
echo end
"""

# What reads or writes many GB tells how far it is, and falls silent when the NAS hangs: a time limit on silence can
# tell the two apart. With nobody left to listen, what it watches is ended.
_BEAT = """\
beat() {{
  trap '' PIPE
  last=
  while sleep 5 >/dev/null 2>&1; do
    at=$(for p in "$@"; do cat "/proc/$p/fdinfo/0" "/proc/$p/fdinfo/3"; done 2>/dev/null |
      awk -v n=$# '/^pos/ {{ sum += $2 }} END {{ printf "%.0f\\n", sum / n }}')
    [ "$at" = "$last" ] || echo "at $at" 2>/dev/null || {{ kill "$@"; exit; }}
    last=$at
  done
}}
"""

# One reading by several programs at once: what the first one fetches over the network, the others find in memory.
_TEST = """\
LC_ALL=C; export LC_ALL
f={path}
[ -f "$f" ] && [ -r "$f" ] || {{ echo missing; echo end; exit 0; }}
t=$(mktemp -d) || exit 1
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT TERM
stat -L -c 'before %s %Y' -- "$f"
sha256sum <"$f" >"$t/sum" &
sum=$!
tar -xzOf - --wildcards 'rootfs/etc/hostname' 'rootfs/etc/ssh/ssh_host_*_key.pub' './rootfs/etc/hostname' \
  './rootfs/etc/ssh/ssh_host_*_key.pub' <"$f" >"$t/own" 2>/dev/null &
own=$!
{{ tar -tzf - <"$f" 2>"$t/tar"; echo "//$?"; }} | awk '
  /^\\/\\// {{ status = substr($0, 3); next }}
  /^(\\.\\/)?rootfs\\// {{ count++ }}
  $0 == "rootfs/" || $0 == "./rootfs/" {{ root = 1 }}
  END {{ printf "list %d %d %d\\n", status, count, root }}' >"$t/list" &
list=$!
gzip -t <"$f" 2>"$t/gzip" &
gzip=$!
beat "$sum" "$gzip" &
beat=$!
wait "$gzip"
echo "gzip $?"
wait "$sum" "$own" "$list"
kill "$beat" 2>/dev/null
cat "$t/list"
sed 's/^/sum /' "$t/sum"
sed 's/^/own /' "$t/own"; echo
cat "$t/gzip" "$t/tar" | grep . | head -n 3 | sed 's/^/said /'
stat -L -c 'mode %a' -- "$f"
stat -L -c 'blocks %b %B' -- "$f"
stat -L -c 'after %s %Y' -- "$f"
echo end
"""

# Opened first: only then does a network file system ask its server how big the file is now.
_STAT = """\
(: <{path}) 2>/dev/null
stat -L -c 'after %s %Y' -- {path} 2>/dev/null || echo missing
echo end
"""

# A rename when the directory allows it: it takes no time and no room. Never a link: tar writes into the same file.
# The manifest goes first: a cut in between leaves one too many, which counts for nothing, and none too few.
_ASIDE = """\
LC_ALL=C; export LC_ALL
umask 077
from={source}; to={target}
[ -f "$from" ] || {{ echo missing; echo end; exit 0; }}
[ -e "$to" ] && {{ echo taken; echo end; exit 0; }}
copy() {{
  cp -p -- "$from" "$to.part" && cmp -s -- "$from" "$to.part" && mv -n -- "$to.part" "$to" && [ ! -e "$to.part" ]
}}
[ -f "$from{note}" ] && cp -p -- "$from{note}" "$to{note}" 2>/dev/null
if mv -n -- "$from" "$to" 2>/dev/null && [ -f "$to" ] && [ ! -e "$from" ]; then
  echo renamed
  rm -f -- "$from{note}"
else
  rm -f -- "$to.part"
  copy &
  copy=$!
  growth "$to.part" &
  growth=$!
  wait "$copy"; status=$?
  kill "$growth" 2>/dev/null
  if [ "$status" = 0 ]; then
    echo copied
  else
    rm -f -- "$to.part" "$to{note}"
    in=$(dirname -- "$to")
    free=$(df -Pk -- "$in" | awk 'NR==2 {{ print $4 }}')
    [ -w "$in" ] && [ "${{free:-0}}" -lt $(($(stat -L -c %s -- "$from") / 1024)) ] && echo "noroom $free"
    echo 'failed it can neither be renamed nor copied there'
  fi
fi
chmod 600 -- "$to" 2>/dev/null || sudo -n chmod 600 -- "$to" 2>/dev/null
echo end
"""

# For `cp` and `cmp`, whose numbers the script does not know: the copy's size, then that it is being compared.
_GROWTH = """\
growth() {{
  trap '' PIPE
  while sleep 5 >/dev/null 2>&1; do
    stat -c 'at %s' -- "$1" 2>/dev/null || exit
  done
}}
"""

# The server's own archive can be read by all, or else a recover typed by hand would delete first and fail then.
_BACK = """\
from={source}; to={target}
if [ -f "$from" ]; then
  rm -f -- "$to{note}"
  [ -f "$from{note}" ] && cp -p -- "$from{note}" "$to{note}" 2>/dev/null
  if mv -f -- "$from" "$to"; then
    echo renamed
    rm -f -- "$from{note}"
    chmod 644 -- "$to" 2>/dev/null || sudo -n chmod 644 -- "$to" 2>/dev/null
  else
    rm -f -- "$to{note}"
    echo 'failed it cannot be renamed'
  fi
fi
echo end
"""

_NOTE = """\
umask 077
printf '%s\\n' {text} >{path}{note}.part && mv -f -- {path}{note}.part {path}{note} && echo done
echo end
"""

_UNNOTE = """\
rm -f -- {path}{note} 2>/dev/null
[ -e {path}{note} ] || echo done
echo end
"""

# Only what was shown when the user said yes: by now the server may have written another archive to the same path.
_REMOVE = """\
if [ -e {path} ] && [ "$(stat -L -c '%s %Y' -- {path})" != {seen} ]; then
  echo changed
else
  rm -f -- {path} {path}{note} 2>/dev/null
  [ -e {path} ] || echo done
fi
echo end
"""

_MODE = """\
chmod {mode} -- {path} 2>/dev/null || sudo -n chmod {mode} -- {path} 2>/dev/null
stat -L -c 'mode %a' -- {path} 2>/dev/null
echo end
"""


def look(directory: str, user: str) -> str:
    """What lies in the archives' directory; whether it may be written is tried, not asked."""
    return _LOOK.format(
        directory=shlex.quote(directory), user=user, suffix=SUFFIX, note=NOTE, limit=_NOTE_LIMIT
    )


def test(path: str) -> str:
    """Read an archive to its end with gzip, tar and sha256sum."""
    return (_BEAT + _TEST).format(path=shlex.quote(path))


def stat(path: str) -> str:
    """Size and time of one file."""
    return _STAT.format(path=shlex.quote(path))


def aside(source: str, target: str) -> str:
    """Rename, or else copy, an archive and its manifest to another name, readable by its owner only."""
    return (_GROWTH + _ASIDE).format(
        source=shlex.quote(source), target=shlex.quote(target), note=NOTE
    )


def back(source: str, target: str) -> str:
    """Rename an archive and its manifest over another."""
    return _BACK.format(source=shlex.quote(source), target=shlex.quote(target), note=NOTE)


def note(path: str, text: str) -> str:
    """Write a manifest beside an archive."""
    return _NOTE.format(path=shlex.quote(path), text=shlex.quote(text), note=NOTE)


def unnote(path: str) -> str:
    """Delete the manifest beside an archive."""
    return _UNNOTE.format(path=shlex.quote(path), note=NOTE)


def remove(path: str, seen: tuple[int, int]) -> str:
    """Delete an archive and its manifest, where its size and time are still those that were `seen`."""
    return _REMOVE.format(
        path=shlex.quote(path), note=NOTE, seen=shlex.quote(f"{seen[0]} {seen[1]}")
    )


def mode(path: str, bits: int) -> str:
    """Change who may read an archive."""
    return _MODE.format(path=shlex.quote(path), mode=f"{bits:o}")
