# Delete an archive and its manifest. Arguments: its path, the size and time ("SIZE TIME") that were shown to the user.
# Only what was shown: the server may have written another archive to the same path meanwhile.
LC_ALL=C; export LC_ALL
if [ -e "$1" ] && [ "$(stat -L -c '%s %Y' -- "$1")" != "$2" ]; then
  echo changed
else
  rm -f -- "$1" "$1.json" "$1.json.part" 2>/dev/null
  [ -e "$1" ] || echo done
fi
echo end
