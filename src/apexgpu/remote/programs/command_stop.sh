# Ends what one `apexgpu exec` started in the container: TERM, then KILL. POSIX sh; comes after run_processes.sh.
#   $1  the mark of that command
#   $2  tenths of a second to wait for a command that the login shell has not started yet
#   $3  tenths of a second between TERM and KILL
# Answers with `apexgpu none` (nothing with that mark runs), `apexgpu ended`, or `apexgpu left PID...`.
sessions=" "
own=$(process_table | awk -v self=$$ '$1 == self { print $2 }')

marked() { # The processes with the mark in their environment, or in their command line: a shell, before it exports it.
  # From stdin, so that this grep's own command line is not among them.
  echo "APEXGPU_EXEC=$1" | grep -lsF -f - /proc/[0-9]*/environ /proc/[0-9]*/cmdline | cut -d/ -f3 | sort -u | tr '\n' ' '
}
members() { # members MARKED: those processes, and the rest of their sessions, whose environment may be unreadable (sudo)
  process_table | awk -v marked=" $1" -v sessions="$sessions" -v own="$own" '
    $2 == 0 || $2 == own { next }
    { line[count++] = $0 }
    index(marked, " " $1 " ") { sessions = sessions $2 " " }
    END {
      for (i = 0; i < count; i++) {
        split(line[i], field, " ")
        if (index(sessions, " " field[2] " ")) print field[1], field[2]
      }
    }'
}
look() { # Sets pids, and adds to sessions.
  pids=
  while read -r pid session; do
    [ -n "$pid" ] || continue
    pids="$pids $pid"
    case $sessions in *" $session "*) ;; *) sessions="$sessions$session " ;; esac
  done <<END
$(members "$(marked "$1")")
END
}
signal() { # signal NAME: to all of them; what another user owns needs sudo
  for pid in $pids; do
    kill -"$1" "$pid" 2>/dev/null || { [ -d "/proc/$pid" ] && sudo -n kill -"$1" "$pid" 2>/dev/null; }
  done
}
wait_for_end() { # wait_for_end MARK TENTHS
  tenths=0
  while look "$1" && [ -n "$pids" ] && [ "$tenths" -lt "$2" ]; do
    sleep 0.1
    tenths=$((tenths + 1))
  done
  [ -z "$pids" ]
}

tenths=0
while look "$1" && [ -z "$pids" ] && [ "$tenths" -lt "$2" ]; do
  sleep 0.1
  tenths=$((tenths + 1))
done
[ -n "$pids" ] || { echo "apexgpu none"; exit 0; }
signal TERM
if ! wait_for_end "$1" "$3"; then
  signal KILL
  wait_for_end "$1" 20 || { echo "apexgpu left$pids"; exit 0; }
fi
echo "apexgpu ended"
