# Print who is logged in, a line `---`, the programs that compute on the GPUs, another `---`, and the runs that are alive.
# POSIX sh; comes after run_processes.sh.
LC_ALL=C; export LC_ALL
echo apexgpu-starts
who 2>/dev/null
echo ---
nvidia-smi --query-compute-apps=pid,process_name --format=csv,noheader 2>/dev/null
echo ---
for run in "$runs"/*/; do
  [ -e "$run/identity" ] && [ ! -e "$run/ended" ] || continue
  read -r session start container <"$run/identity"
  id=$(tr ' ' '\n' <"$run/info" | sed -n 's/^id=//p')
  [ -z "$(members "$session" "$start" "$id")" ] || basename "$run"
done
true
