# Functions for the programs that start, list and stop runs (`apexgpu run`). POSIX sh.
#
# A run has a directory, $runs/NAME:
#   info        one line of NAME=VALUE words, as `apexgpu.detached.containerruns` wrote it
#   command     the command line; `program` is the program that it begins with, where that is known
#   supervise   run_supervise.sh, which leads the run's session
#   identity    "SESSION START CONTAINER": the process number and the start time of the session's leader, and which
#               start of the container that was. A process number alone proves nothing: it may belong to another process by now.
#   begun       exists once the command was about to be executed
#   ended       "STATUS SECONDS": exit status of the command and the time of its end (the first line; blanks follow)
#   stop        exists if somebody asked for the end of the run
#   log.OFFSET  a part of the log; OFFSET is how many bytes came before it
runs=$HOME/.cache/apexgpu/runs

run_id() { # run_id DIRECTORY: the id of the run that has this directory
  tr ' ' '\n' 2>/dev/null <"$1/info" | sed -n 's/^id=//p'
}

container_start() { # which start of the container this is: when its first process began, in ticks of the host's clock; 0 if unknown
  # A time of day would change with the clock, which somebody may set.
  ticks=$(sed -n '$s/.*) //p' /proc/1/stat 2>/dev/null | cut -d ' ' -f 20)
  echo "${ticks:-0}"
}

process_table() { # every process as a line "PID SESSION START TICKS PAGES": CPU time used, memory resident
  # A program's name stands in brackets and may contain blanks, brackets and newlines. What follows the last bracket is
  # regular. Zombies (Z) have ended.
  cat /proc/[0-9]*/stat 2>/dev/null | awk '
    /^[0-9]+ \(/ { pid = $1 }
    {
      rest = $0
      while ((position = index(rest, ") ")) > 0) rest = substr(rest, position + 2)
      count = split(rest, field, " ")
      if (count < 22 || field[1] == "Z" || field[1] == "X") next
      printf "%s %s %s %.0f %s\n", pid, field[4], field[20], field[12] + field[13], field[22]
    }'
}

is_of_run() { # is_of_run PID ID: whether the environment of a process says that it belongs to the run
  tr '\0' '\n' <"/proc/$1/environ" 2>/dev/null | grep -qxF "APEXGPU_RUN=$2"
}

members() { # members SESSION START ID: the processes of a run as lines of process_table
  # While a process of a session exists, the kernel gives its number to no other session. So either the leader exists,
  # and its start time decides; or it has ended, and the environment of the others tells whose they are.
  process_table | awk -v session="$1" -v start="$2" '
    $1 == session { leader = $3 }
    $2 == session { line[count++] = $0 }
    END {
      if (leader != "" && leader != start) exit
      for (i = 0; i < count; i++) print (leader != ""), line[i]
    }' |
    while read -r has_leader pid rest; do
      if [ "$has_leader" = 1 ] || is_of_run "$pid" "$3"; then echo "$pid $rest"; fi
    done
}
