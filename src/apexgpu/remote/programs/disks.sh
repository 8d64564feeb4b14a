# Print what `df` reports of every mount, then of the directories $1 $2 …, each behind a line `@disk DIRECTORY`: one that
# is only a directory in a larger file system has no line in the first list.
# -P: one line for each, in the order that POSIX defines; -k: blocks of 1024 bytes.
# A network disk that hangs must not hold up the rest, hence the time limit.
LC_ALL=C; export LC_ALL
limit=
command -v timeout >/dev/null 2>&1 && limit='timeout 5'
$limit df -Pk 2>/dev/null
for directory; do
  [ -d "$directory" ] && echo "@disk $directory" && $limit df -Pk "$directory" 2>/dev/null
done
true
