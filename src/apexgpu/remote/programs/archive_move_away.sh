# Rename (or else copy) an archive and its manifest, readable by their owner only. Arguments: the old path, the new one.
# A rename takes no time and no room. Never a link: the server's tar writes into the same file.
LC_ALL=C; export LC_ALL
umask 077
from=$1 to=$2
[ -f "$from" ] || { echo missing; echo end; exit 0; }
[ -e "$to" ] && { echo taken; echo end; exit 0; }
copy() {
  cp -p -- "$from" "$to.part" && cmp -s -- "$from" "$to.part" && mv -n -- "$to.part" "$to" && [ ! -e "$to.part" ]
}
# The progress of `cp` and `cmp`, whose positions are not known here: the size of the copy, then that it is compared.
progress() {
  trap '' PIPE
  while sleep 5 >/dev/null 2>&1; do
    stat -c 'at %s' -- "$1" 2>/dev/null || exit
  done
}
# The manifest first: a cut in between leaves one manifest too many, which counts for nothing, and never one too few.
[ -f "$from.json" ] && { cp -p -- "$from.json" "$to.json" 2>/dev/null || rm -f -- "$to.json"; }
if mv -n -- "$from" "$to" 2>/dev/null && [ -f "$to" ] && [ ! -e "$from" ]; then
  echo renamed
  rm -f -- "$from.json" "$from.json.part"
else
  rm -f -- "$to.part"
  copy &
  copy=$!
  progress "$to.part" &
  progress=$!
  wait "$copy"; status=$?
  kill "$progress" 2>/dev/null
  if [ "$status" = 0 ]; then
    echo copied
  else
    rm -f -- "$to.part" "$to.json"
    in=$(dirname -- "$to")
    free=$(df -Pk -- "$in" | awk 'NR==2 { print $4 }')
    [ -w "$in" ] && [ "${free:-0}" -lt $(($(stat -L -c %s -- "$from") / 1024)) ] && echo "noroom $free"
    echo 'failed it can neither be renamed nor copied there'
  fi
fi
chmod 600 -- "$to" 2>/dev/null || sudo -n chmod 600 -- "$to" 2>/dev/null
echo end
