# Starts a run. POSIX sh; comes after run_processes.sh and gpu_locks.sh.
#   $1  the name of the run
#   $2  its id, which marks its processes
#   $3  the line for the file `info`
#   $4  the directory to work in
#   $5  the command line
#   $6  the text of run_supervise.sh
#   $7  the GPUs to choose from, best first, as lines "INDEX UUID VALUE"; VALUE is what CUDA_VISIBLE_DEVICES gets
#   $8  who takes the GPU, for those who look at its lock
#   $9  the name of a file in $runs with variables for the environment, or nothing
#   $10 the program that the command line begins with, or nothing where that is not known
# Answers with one of
#   apexgpu failed REASON [DETAIL]
#   apexgpu started INDEX UUID   (`-` without a GPU)
name=$1 id=$2 info=$3 workdir=$4 command=$5 supervisor=$6 gpus=$7 owner=$8 variables=$9 program=${10}
run=$runs/$name
failed() { # failed REASON [DETAIL]: nothing of the run is left
  [ -z "$made" ] || rm -rf "$run"
  [ -z "$variables" ] || rm -f "$runs/$variables"
  echo "apexgpu failed $*"
  exit 0
}
made=
umask 077
detail=$(mkdir -p "$runs" 2>&1) || failed no_space "$detail"
case $workdir in
  "~") workdir=$HOME ;;
  "~/"*) workdir=$HOME/${workdir#??} ;;
  /*) ;;
  *) workdir=$HOME/$workdir ;;
esac
cd "$workdir" 2>/dev/null || failed no_directory "$workdir"
if ! detail=$(mkdir "$run" 2>&1); then
  [ ! -e "$run" ] || failed exists
  failed no_space "$detail"
fi
made=yes
[ -z "$variables" ] || mv "$runs/$variables" "$run/variables" || failed no_space
write() { # write FILE TEXT: all of it, or the run is given up. On a full disk, an empty file can still be made.
  detail=$( { printf '%s\n' "$2" >"$run/$1"; } 2>&1) || failed no_space "$detail"
  [ "$(wc -c <"$run/$1")" -gt 0 ] || failed no_space "$run/$1"
}
write command "$command"
write program "$program"
write supervise "$supervisor"

gpu=- gpu_uuid=- holder=
if [ -n "$gpus" ]; then
  command -v flock >/dev/null || failed no_flock
  locks=$(gpu_lock_directory) || failed no_space
  while read -r index uuid value; do
    if lock_gpu "$locks" "$uuid" "$owner"; then
      gpu=$index gpu_uuid=$uuid
      write gpu "$value"
      break
    fi
    # A FIFO in its place would never open.
    [ ! -f "$locks/$uuid" ] || holder=$(head -c 200 "$locks/$uuid" 2>/dev/null | head -n 1)
  done <<LIST
$gpus
LIST
  [ "$gpu" != - ] || failed gpu_taken "$holder"
fi
write info "$info began=$(date +%s) gpu=$gpu uuid=$gpu_uuid"

# setsid makes a session that outlives the connection. The lock (9) is inherited.
setsid sh "$run/supervise" "$run" "$id" "$(container_start)" </dev/null >/dev/null 2>&1 &
# A command that does not exist must not be reported as started. The start-up files of a login shell may take their time
# before `begun` appears.
wait_for() { # wait_for TENTHS FILE: until the file exists, or the run has ended
  tenths=0
  while [ ! -e "$run/$2" ] && [ ! -e "$run/ended" ] && [ "$tenths" -lt "$1" ]; do
    sleep 0.1
    tenths=$((tenths + 1))
  done
}
wait_for 150 begun
# Where the program's name is known, it has been looked up. A command line that the shell reads shows by its status.
[ -n "$program" ] || wait_for 15 ended
status=
[ ! -e "$run/ended" ] || read -r status _ <"$run/ended"
case $status in
  126 | 127)
    detail=$(tail -c 300 "$run"/log.* | tail -n 1)
    failed "no_command" "$detail" ;;
esac
[ -e "$run/identity" ] || failed no_space "$run"
echo "apexgpu started $gpu $gpu_uuid"
