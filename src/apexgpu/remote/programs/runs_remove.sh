# Removes runs that have ended. POSIX sh; comes after run_processes.sh.
#   $@  NAME=ID of each run
# Answers with `apexgpu removed NAME` or `apexgpu running NAME` for each.
for word; do
  name=${word%%=*} id=${word#*=} run=$runs/${word%%=*}
  # Another laptop may have removed it, and started another run of this name.
  [ "$(run_id "$run")" = "$id" ] || continue
  if [ ! -e "$run/ended" ] && read -r session start container 2>/dev/null <"$run/identity" &&
    [ -n "$(members "$session" "$start" "$id")" ]; then
    echo "apexgpu running $name"
    continue
  fi
  rm -rf "$run" && echo "apexgpu removed $name"
done
# Variables of a start that never happened contain secrets.
find "$runs" -maxdepth 1 -name '.variables-*' -mmin +10 -exec rm -f {} + 2>/dev/null
true
