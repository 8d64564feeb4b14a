# Print $1 reports of `nvidia-smi -q`, $2 seconds apart; a line `@@ STATUS` ends each. Lines `@lock UUID OWNER` before it
# name the GPUs that runs have locked. Comes after gpu_locks.sh.
# Most of a report are values that are not available (N/A) and blanks that align the rest. They are removed here.
LC_ALL=C; export LC_ALL
n=0
while :; do
  said=$(nvidia-smi -q 2>&1 </dev/null); code=$?
  printf '%s\n' "$said" | sed -e '/: N\/A$/d' -e 's/  *: / : /' || exit 1
  gpu_locks 2>/dev/null
  echo "@@ $code" || exit 1
  n=$((n + 1))
  [ "$n" -lt "$1" ] || exit 0
  sleep "$2"
done
