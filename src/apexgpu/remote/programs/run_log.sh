# Sends the log of a run from a byte offset on. POSIX sh; comes after run_processes.sh.
#   $1  the name of the run
#   $2  the offset, or -N for the last N lines (of the last 16 MiB)
#   $3  follow | once: whether to wait for what is still to come
#   $4  how many bytes to send at most
#   $5  how many seconds to follow at most
#   $6  the id of the run, or nothing where it is not known: another run may have the name by now
# Answers with
#   apexgpu at OFFSET     where the next data begins; behind the offset that was asked for where older parts are gone
#   apexgpu data BASE64   in order
#   apexgpu alive         every few seconds while there is nothing to send
#   apexgpu ended STATUS SECONDS | apexgpu gone | apexgpu more | apexgpu complete     the last line
run=$runs/$1 offset=$2 mode=$3 left=$4 seconds=$5
[ -d "$run" ] || { echo "apexgpu gone"; exit 0; }
[ -z "$6" ] || [ "$(run_id "$run")" = "$6" ] || { echo "apexgpu gone"; exit 0; }
LC_ALL=C
export LC_ALL
# Bytes in a line of data. A longer one than 1 MiB would be taken for several (boundedoutput.LONGEST_LINE).
piece=589824

strip() { # strip NUMBER: without the zeros in front, which would make it octal
  number=$1
  while [ "$number" != "${number#0}" ] && [ ${#number} -gt 1 ]; do number=${number#0}; done
  echo "$number"
}

is_alive() { # whether a process of the run exists; it has none yet while it is being started
  read -r session start container 2>/dev/null <"$run/identity" || return 0
  [ -n "$(members "$session" "$start" "$(run_id "$run")")" ]
}

find_part() { # find_part OFFSET: $part has it and begins at $begin; where it is gone, the oldest that is left
  part= begin=0
  for file in "$run"/log.*; do
    [ -e "$file" ] || continue
    number=$(strip "${file##*log.}")
    if [ -z "$part" ] || [ "$number" -le "$1" ]; then part=$file begin=$number; fi
  done
}

case $offset in
  -*)
    lines=${offset#-}
    set -- "$run"/log.*
    for file; do :; done
    end=$(($(strip "${file##*log.}") + $(wc -c <"$file")))
    # The last part may be short: the lines may begin in the one before it.
    [ $# -eq 1 ] || shift $(($# - 2))
    length=$(cat "$@" | tail -n "$lines" | wc -c)
    offset=$((end - length)) ;;
esac

find_part "$offset"
[ "$offset" -ge "$begin" ] || offset=$begin
echo "apexgpu at $offset"
stop_at=$(($(date +%s) + seconds))
ended= quiet=0
while :; do
  find_part "$offset"
  [ -n "$part" ] || { echo "apexgpu gone"; exit 0; }
  if [ "$offset" -lt "$begin" ]; then
    offset=$begin
    echo "apexgpu at $offset"
  fi
  size=$(wc -c 2>/dev/null <"$part") || continue
  available=$((size - (offset - begin)))
  if [ "$available" -gt 0 ]; then
    [ "$available" -le "$piece" ] || available=$piece
    [ "$available" -le "$left" ] || available=$left
    data=$(tail -c +$((offset - begin + 1)) "$part" 2>/dev/null | head -c "$available" | base64 | tr -d '\n')
    # A command that prints fast may have deleted the part since it was found.
    [ -n "$data" ] || { sleep 0.1; continue; }
    echo "apexgpu data $data" || exit
    offset=$((offset + available))
    left=$((left - available))
    quiet=0
    [ "$left" -gt 0 ] || { echo "apexgpu more"; exit 0; }
    continue
  fi
  # Nothing more in this part. A newer one begins where it ends.
  [ ! -e "$(printf '%s/log.%015d' "$run" "$offset")" ] || [ "$offset" -eq "$begin" ] || continue
  # The end was seen before the log was read to its end: nothing is missing.
  if [ -n "$ended" ]; then
    echo "apexgpu ended $ended"
    exit 0
  fi
  if [ -e "$run/ended" ]; then
    read -r ended <"$run/ended"
    continue
  fi
  [ "$mode" = follow ] || { echo "apexgpu complete"; exit 0; }
  if [ "$quiet" -ge 25 ]; then
    quiet=0
    echo "apexgpu alive" || exit
    is_alive || [ -e "$run/ended" ] || { echo "apexgpu complete"; exit 0; }
    [ "$(date +%s)" -lt "$stop_at" ] || { echo "apexgpu more"; exit 0; }
  fi
  quiet=$((quiet + 1))
  sleep 0.2
done
