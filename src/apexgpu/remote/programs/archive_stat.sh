# Print the size and the time of a file. Argument: its path.
# It is opened first: only then does a network file system ask its server how big the file is now.
LC_ALL=C; export LC_ALL
(: <"$1") 2>/dev/null
stat -L -c 'after %s %Y' -- "$1" 2>/dev/null || echo missing
echo end
