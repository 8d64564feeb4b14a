# Delete the manifest beside an archive. Argument: the archive's path.
LC_ALL=C; export LC_ALL
rm -f -- "$1.json" "$1.json.part" 2>/dev/null
[ -e "$1.json" ] || echo done
echo end
