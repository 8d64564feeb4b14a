# Lists runs. POSIX sh; comes after run_processes.sh and gpu_locks.sh.
#   $@  the names of the runs; none means all
# Answers with
#   apexgpu clock NOW CONTAINER TICKS PAGE   seconds since 1970, which start of the container this is, CPU ticks in a
#                                            second, bytes of a page
#   apexgpu run NAME|IDENTITY|BEGUN|ENDED|STOP|BYTES|LAST|INFO    for each run; LAST is the end of its log in base64
#   apexgpu processes 1|2                    twice, a moment apart, before the processes of runs:
#   apexgpu process SESSION PID START TICKS PAGES MARKED          MARKED: the run of a process without its leader
#   apexgpu gpu PID UUID MEMORY              of the container's programs, MEMORY in MiB
#   apexgpu end
LC_ALL=C
export LC_ALL
first_line() { line= && { read -r line <"$1"; } 2>/dev/null; printf '%s' "$line"; }

cd "$runs" 2>/dev/null || { echo "apexgpu end" && exit 0; }
[ $# -gt 0 ] || set -- *
echo "apexgpu clock $(date +%s) $(container_start) $(getconf CLK_TCK) $(getconf PAGESIZE)"
sessions=
for name; do
  [ -d "$name" ] || continue
  identity=$(first_line "$name/identity")
  ended=$(first_line "$name/ended")
  begun=$([ ! -e "$name/begun" ] || echo yes)
  stop=$([ ! -e "$name/stop" ] || echo yes)
  bytes=0 last=
  part=
  for part in "$name"/log.*; do :; done
  if [ -e "$part" ]; then
    offset=${part##*log.}
    while [ "$offset" != "${offset#0}" ] && [ ${#offset} -gt 1 ]; do offset=${offset#0}; done
    size=$(wc -c <"$part")
    bytes=$((offset + size))
    last=$(tail -c 400 "$part" | base64 | tr -d '\n')
  fi
  info=$(first_line "$name/info")
  # A start that was cut off before it wrote that down. It must not look like one that is under way for ever.
  [ -n "$info" ] || info="began=$(stat -c %Y "$name")"
  echo "apexgpu run $name|$identity|$begun|$ended|$stop|$bytes|$last|$info"
  if [ -n "$identity" ] && [ -z "$ended" ]; then sessions="$sessions ${identity%% *}"; fi
done
[ -n "$sessions" ] || { echo "apexgpu end" && exit 0; }
for round in 1 2; do
  echo "apexgpu processes $round"
  process_table | awk -v sessions="$sessions" '
    BEGIN { count = split(sessions, list, " "); for (i = 1; i <= count; i++) wanted[list[i]] = 1 }
    $2 in wanted { line[++lines] = $0; session[lines] = $2 }
    $1 in wanted { has_leader[$1] = 1 }
    END { for (i = 1; i <= lines; i++) print ((session[i] in has_leader) ? "yes" : "no"), line[i] }' |
    while read -r has_leader pid session start ticks pages; do
      marked=-
      # A session whose leader has ended: the environment tells which run it was.
      [ "$has_leader" = yes ] ||
        marked=$(tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | sed -n 's/^APEXGPU_RUN=//p')
      echo "apexgpu process $session $pid $start $ticks $pages ${marked:--}"
    done
  [ "$round" = 2 ] || sleep 0.3
done
nvidia-smi --query-compute-apps=pid,gpu_uuid,used_memory --format=csv,noheader,nounits 2>/dev/null |
  sed -n 's/^ *\([0-9]*\), *\([^,]*\), *\(.*\)$/apexgpu gpu \1 \2 \3/p'
echo "apexgpu end"
