# Checks or does the steps of a setup. POSIX sh, sent as text.
#   $1  check | run | follow
#   $2  the id of the run, and what it sets up
#   $3  a script that writes the run's files into $RUN: steps.sh, variables.sh, files/, count (of the steps), sources
#       (lines "NAME N PATH"), and for each step N: N.done, N.do, N.verify, N.constraints, and N.here if the laptop does it
#   $4  for run: this text itself
# Its own lines begin with `apexgpu@ID `; all others are output of the steps' programs. recipes/setupscript.py builds the
# arguments and reads the lines.
mode=$1 id=${2%% *} what=$2
notes=$HOME/.cache/apexgpu/setup
mark() { printf 'apexgpu@%s %s\n' "$id" "$*"; }

part() ( # part N done|do|verify: run one text of a step; 124 at its time limit
  cd "$HOME" || exit 1
  limit=${APEXGPU_STEP_LIMIT:-7200}
  [ "$2" = "do" ] || limit=$((limit / 8))
  exec timeout -k 10 "$limit" sh -c 'set -e; . "$RUN/variables.sh"; . "$RUN/steps.sh"; FILES=$RUN/files CONSTRAINTS=$RUN/files/$3
    . "$RUN/$1.$2"' step "$1" "$2" "$(cat "$RUN/$1.constraints")" 9>&- </dev/null
)
is_done() { part "$1" "done" >/dev/null 2>&1; }

check() {
  RUN=$(mktemp -d "${TMPDIR:-/tmp}/apexgpu.XXXXXX") || exit 1
  export RUN
  trap 'rm -rf "$RUN"' EXIT
  eval "$texts"
  todo=" "
  number=0
  while [ "$number" -lt "$(cat "$RUN/count")" ]; do
    number=$((number + 1))
    if is_done "$number"; then mark "done" "$number"; else mark todo "$number" && todo="$todo$number "; fi
  done
  while read -r name number path; do
    case $todo in *" $number "*) ;; *) continue ;; esac
    if [ -r "$path" ]; then
      mark file "$name" "$(wc -c <"$path" | tr -d ' ')" "$(sha256sum <"$path" | cut -d ' ' -f 1)" "$path"
    else
      mark nofile "$name" "$path"
    fi
  done <"$RUN/sources"
  mark end
}

failed() {
  [ "$3" != 124 ] || echo "the step reached its time limit, and was ended"
  mark failed "$@"
  echo failed >"$notes/ended"
}
work() { # do the steps; it has its own session, so that it outlives the connection
  number=0
  while [ "$number" -lt "$(cat "$RUN/count")" ]; do
    number=$((number + 1))
    [ ! -e "$RUN/$number.here" ] || continue
    [ ! -e "$notes/stop-$id" ] || { mark stopped "$number" && echo stopped >"$notes/ended" && return; }
    mark begin "$number"
    if is_done "$number"; then mark skipped "$number" && continue; fi
    part "$number" "do" || { failed "$number" "do" $? && return; }
    part "$number" verify || { failed "$number" verify $? && return; }
    mark did "$number"
  done
  echo finished >"$notes/ended"
}

begin() { # start a new run, or one again that died before its end
  rm -rf "$notes/run" "$notes/ended" "$notes/pid" "$notes"/stop-*
  : >"$notes/log"
  echo "$what" >"$notes/id"
  mkdir "$notes/run"
  RUN=$notes/run
  export RUN
  eval "$texts"
  printf '%s\n' "$program" >"$RUN/run.sh"
  setsid sh "$RUN/run.sh" work "$what" >>"$notes/log" 2>&1 </dev/null &
  while [ ! -s "$notes/pid" ] && kill -0 $! 2>/dev/null; do sleep 0.1; done
}

follow() {
  while sleep 15 >/dev/null; do mark alive; done & # >/dev/null: a sleep must not keep the connection open
  beat=$!
  if [ "$runs" = yes ]; then
    tail -n +1 -s 0.2 -f --pid="$(cat "$notes/pid")" "$notes/log"
  else
    cat "$notes/log"
  fi
  kill "$beat"
  mark ended "$(cat "$notes/ended" 2>/dev/null || echo died)"
}

case $mode in
  work)
    echo $$ >"$notes/pid.new" && mv -f "$notes/pid.new" "$notes/pid"
    work ;;
  check) texts=$3 && check ;;
  *)
    umask 077
    mkdir -p "$notes"
    umask 022
    texts=${3:-} program=${4:-}
    exec 9>>"$notes/lock"
    runs=yes
    if flock -w 1 9; then # -w 1: facts.sh holds the lock for a moment
      if [ "$mode" = run ] && { [ "$(cat "$notes/id" 2>/dev/null)" != "$what" ] || [ ! -e "$notes/ended" ]; }; then
        begin
      else
        runs=no
      fi
    elif [ "$(cut -d ' ' -f 1 "$notes/id" 2>/dev/null)" != "$id" ]; then
      mark busy "$(cat "$notes/id" 2>/dev/null)"
      exit 0
    fi
    exec 9>&-
    follow 2>/dev/null ;;
esac
