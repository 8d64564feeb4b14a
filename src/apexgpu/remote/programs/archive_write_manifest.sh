# Write the manifest beside an archive. Arguments: the archive's path, the manifest's text.
LC_ALL=C; export LC_ALL
umask 077
part=$1.json.part
trap 'rm -f -- "$part"' EXIT
trap 'exit 1' HUP INT TERM
printf '%s\n' "$2" >"$part" && mv -f -- "$part" "$1.json" && echo done
echo end
