# Rename an archive and its manifest over another one. Arguments: the old path, the new one.
LC_ALL=C; export LC_ALL
from=$1 to=$2
if [ -f "$from" ]; then
  rm -f -- "$to.json"
  [ -f "$from.json" ] && cp -p -- "$from.json" "$to.json" 2>/dev/null
  if mv -f -- "$from" "$to"; then
    echo renamed
    rm -f -- "$from.json" "$from.json.part"
    # The server's own archive is readable by all, or a recover typed by hand would delete first and then fail.
    chmod 644 -- "$to" 2>/dev/null || sudo -n chmod 644 -- "$to" 2>/dev/null
  else
    rm -f -- "$to.json"
    echo 'failed it cannot be renamed'
  fi
fi
echo end
