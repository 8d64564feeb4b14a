# Read an archive to its end with gzip, tar and sha256sum. Argument: its path.
# It prints how far it has read every few seconds, and nothing while the NAS hangs: a time limit on silence can tell
# the two apart.
LC_ALL=C; export LC_ALL
f=$1
[ -f "$f" ] && [ -r "$f" ] || { echo missing; echo end; exit 0; }
progress() {
  trap '' PIPE
  last=
  while sleep 5 >/dev/null 2>&1; do
    at=$(for p in "$@"; do cat "/proc/$p/fdinfo/0" "/proc/$p/fdinfo/3"; done 2>/dev/null |
      awk -v n=$# '/^pos/ { sum += $2 } END { printf "%.0f\n", sum / n }')
    # With nobody left to listen, the readers are ended. Not by TERM, for the reason below.
    [ "$at" = "$last" ] || echo "at $at" 2>/dev/null || { kill -KILL "$@"; exit; }
    last=$at
  done
}
t=$(mktemp -d) || exit 1
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT TERM
stat -L -c 'before %s %Y' -- "$f"
# All programs read at once: what the first one fetches over the network, the others find in memory.
sha256sum <"$f" >"$t/sum" &
sum=$!
tar -xzOf - --wildcards 'rootfs/etc/hostname' 'rootfs/etc/ssh/ssh_host_*_key.pub' './rootfs/etc/hostname' \
  './rootfs/etc/ssh/ssh_host_*_key.pub' <"$f" >"$t/own" 2>/dev/null &
own=$!
{ tar -tzf - <"$f" 2>"$t/tar"; echo "//$?"; } | awk '
  /^\/\// { status = substr($0, 3); next }
  { sub(/^\.\//, "") }
  /^rootfs\// { count++ }
  $0 == "rootfs/" { root = 1 }
  $0 == "rootfs/etc/passwd" { users = 1 }
  /^rootfs\/(usr\/)?bin(\/|$)/ { programs = 1 }
  END { printf "list %d %d %d %d\n", status, count, root, users && programs }' >"$t/list" &
list=$!
gzip -t <"$f" 2>"$t/gzip" &
gzip=$!
progress "$sum" "$gzip" &
progress=$!
wait "$gzip"
echo "gzip $?"
wait "$sum" "$own" "$list"
# Not TERM: sh loses one that comes before the new process has cleared our TERM trap.
kill -KILL "$progress" 2>/dev/null
cat "$t/list"
sed 's/^/sum /' "$t/sum"
sed 's/^/own /' "$t/own"; echo
cat "$t/gzip" "$t/tar" | grep . | head -n 20 | cut -c 1-300 | sed 's/^/said /'
stat -L -c 'mode %a' -- "$f"
stat -L -c 'blocks %b %B' -- "$f"
stat -L -c 'after %s %Y' -- "$f"
echo end
