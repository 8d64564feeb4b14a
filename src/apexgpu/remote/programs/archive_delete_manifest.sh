# Delete the manifest beside an archive. Argument: the archive's path.
rm -f -- "$1.json" 2>/dev/null
[ -e "$1.json" ] || echo done
echo end
