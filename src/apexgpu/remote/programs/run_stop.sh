# Ends a run: TERM to all processes of its session, then KILL to those that are left. POSIX sh; comes after
# run_processes.sh.
#   $1  the name of the run
#   $2  its id
#   $3  seconds between TERM and KILL
# Answers with `apexgpu missing`, `apexgpu over` (it had ended before), or `apexgpu stopped term|kill`.
run=$runs/$1
[ -d "$run" ] || { echo "apexgpu missing"; exit 0; }
read -r session start container 2>/dev/null <"$run/identity" || { echo "apexgpu over"; exit 0; }

signal_members() { # signal_members SIGNAL [LEADER]: to all processes of the run, except its leader's own if LEADER is no
  # The leader and the process that keeps the log write down the end; they are the shells that run `supervise`.
  members "$session" "$start" "$id" | while read -r pid _; do
    if [ "${2:-}" = no ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF " $run/supervise "; then continue; fi
    kill -"$1" "$pid" 2>/dev/null
  done
}
is_over() { [ -e "$run/ended" ] || [ -z "$(members "$session" "$start" "$id")" ]; }
wait_for_end() { # wait_for_end TENTHS
  tenths=0
  until is_over || [ "$tenths" -ge "$1" ]; do
    sleep 0.1
    tenths=$((tenths + 1))
  done
  is_over
}

id=$2
if is_over; then
  # What the command left behind in its session is ended as well.
  signal_members KILL
  echo "apexgpu over"
  exit 0
fi
: >"$run/stop"
signal_members TERM
how=term
if ! wait_for_end $(($3 * 10)); then
  how=kill
  signal_members KILL no
  wait_for_end 30 || signal_members KILL
fi
# A program that ignores TERM may outlive the command that started it.
signal_members KILL no
echo "apexgpu stopped $how"
