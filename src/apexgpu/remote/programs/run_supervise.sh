# Leads the session of one run: starts its command, keeps its log within limits, and writes down how it ended. POSIX sh.
#   $1  the directory of the run
#   $2  the id of the run
#   $3  which start of the container this is
# Descriptor 9 is the lock of the GPU, if there is one. The command inherits it, so that it is held as long as any of
# its processes lives.
run=$1
PATH=$PATH:/usr/local/bin:/usr/bin:/bin
largest_part=16777216 # bytes of a part of the log before the next one begins; the last 8 parts are kept
most_parts=8

# Field 22 of /proc/PID/stat is the start time. Our own name contains no bracket.
read -r line <"/proc/$$/stat"
# shellcheck disable=SC2086
set -- "$1" "$2" "$3" ${line##*) }
# A run that nobody could find again is not started: the disk may be full.
printf '%s\n' "$$ ${23} $3" >"$run/identity.new" && mv "$run/identity.new" "$run/identity" || exit
# The room for the end is taken now: the disk may be full by then, and what cannot be written would look like a kill.
printf '%63s\n' '' >"$run/ended.new"
APEXGPU_RUN=$2
export APEXGPU_RUN

part_name() { printf '%s/log.%015d' "$run" "$1"; }

count_blocks() { # count_blocks REPORT: how many blocks dd has read, by "3+2 records in": 3 whole ones and 2 shorter ones
  # A warning about short blocks may stand before that.
  blocks=${1%% records in*}
  blocks=${blocks##*[!0-9+]}
  echo $((${blocks%+*} + ${blocks#*+}))
}

keep_log() { # copy stdin to the log until all who write to it have ended
  # It outlives what it listens to: a log that ends early would end the command (SIGPIPE).
  trap '' TERM INT HUP
  offset=0
  part=$(part_name 0)
  while :; do
    # dd writes what it has read at once, also less than a block, so that the log is up to date.
    if report=$(LC_ALL=C dd bs=65536 count=64 of="$part" oflag=append conv=notrunc 2>&1); then
      # Fewer than asked for means the end.
      [ "$(count_blocks "$report")" -eq 64 ] || break
    else
      # The disk is full. The command must go on: what it prints now is dropped.
      report=$(LC_ALL=C dd bs=65536 count=16 of=/dev/null 2>&1)
      [ "$(count_blocks "$report")" -eq 16 ] || break
      continue
    fi
    size=$(wc -c <"$part")
    [ "$size" -ge "$largest_part" ] || continue
    offset=$((offset + size))
    part=$(part_name "$offset")
    : >"$part"
    set -- "$run"/log.*
    [ $# -le "$most_parts" ] || rm -f "$1"
  done
}

# What the login shell executes: the variables come last, so that no start-up file overrides them.
# shellcheck disable=SC2016
script='
mark=$3
if [ -e "$1/variables" ]; then . "$1/variables"; rm -f "$1/variables"; fi
APEXGPU_RUN=$mark
export APEXGPU_RUN
if [ -e "$1/gpu" ]; then
  CUDA_DEVICE_ORDER=PCI_BUS_ID
  read -r CUDA_VISIBLE_DEVICES <"$1/gpu"
  export CUDA_DEVICE_ORDER CUDA_VISIBLE_DEVICES
fi
cd "$2"
line=$(cat "$1/command")
program=$(cat "$1/program")
case "$program:${SHELL:-/bin/sh}" in
  :* | *fish | *csh) ;; # not known; or a shell with other words for this
  */*:*) if ! { [ -f "$program" ] && [ -x "$program" ]; }; then
      echo "$program: not a program"
      exit 126
    fi ;;
  *) if ! "${SHELL:-/bin/sh}" -c "command -v -- \"\$1\"" sh "$program" >/dev/null; then
      echo "$program: command not found"
      exit 127
    fi ;;
esac
: >"$1/begun"
exec 2>&1 "${SHELL:-/bin/sh}" -c "$line"'

run_command() { # in the directory of the start, with the environment of a login
  # An interactive shell without a terminal complains about that on stderr: its complaints are dropped, the command gets
  # stderr back (see `2>&1` above). csh has no option that reads the start-up files for a command.
  case "${SHELL:-/bin/sh}" in
    */fish) exec "$SHELL" -i -l -c 'exec $argv' sh -c "$script" sh "$run" "$PWD" "$APEXGPU_RUN" 2>/dev/null ;;
    */csh | */tcsh) exec sh -c "$script" sh "$run" "$PWD" "$APEXGPU_RUN" 2>/dev/null ;;
    *) exec "${SHELL:-/bin/sh}" -ilc 'exec "$@"' sh sh -c "$script" sh "$run" "$PWD" "$APEXGPU_RUN" 2>/dev/null ;;
  esac
}

# A pipe with a name, so that both ends are processes of ours that we can wait for. Opening it for reading and writing
# does not wait for the other end.
mkfifo "$run/pipe"
exec 8<>"$run/pipe"
exec 7<"$run/pipe" 6>"$run/pipe"
exec 8<&-
rm -f "$run/pipe"
: >"$(part_name 0)"
# `exec` closes the descriptors for good. A redirection of the function itself would keep copies: of the pipe's other end,
# so that its end would never come, and of the GPU's lock.
(exec <&7 7<&- 6>&- 9<&- >/dev/null 2>&1; keep_log) &
keeper=$!
# `runs stop` and the end of the container signal all processes of the session. This one has to see how the command ends.
trap 'signalled=yes' TERM INT HUP
(exec </dev/null >&6 7<&- 6>&-; run_command) &
child=$!
exec 7<&- 6>&-
signalled=
while :; do
  wait "$child"
  status=$?
  # `wait` also returns for a signal to this process. A command that has ended exists until `wait` has returned its status.
  [ "$status" -gt 128 ] && kill -0 "$child" 2>/dev/null || break
done
ended=$(date +%s)
# What the command has just printed must be in the log before the end is written down. A program that it left behind may
# hold the log open for ever.
waited=0
while kill -0 "$keeper" 2>/dev/null && [ "$waited" -lt 20 ]; do
  sleep 0.1
  waited=$((waited + 1))
done
# A signal that nobody asked for is the end of the container, which is no end of the command's own.
if [ -n "$signalled" ] && [ ! -e "$run/stop" ]; then exit; fi
printf '%s\n' "$status $ended" 1<>"$run/ended.new" && mv "$run/ended.new" "$run/ended"
