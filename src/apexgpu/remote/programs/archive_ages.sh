# Print the age of an archive by the clock of its file system, and that of this container. Argument: the archive's path.
LC_ALL=C; export LC_ALL
# A new file shows what time it is there.
probe=$(dirname -- "$1")/.apexgpu-probe.$$
(: >"$probe") 2>/dev/null && now=$(stat -c %Y -- "$probe" 2>/dev/null)
rm -f -- "$probe" 2>/dev/null
written=$(stat -L -c %Y -- "$1" 2>/dev/null)
[ -n "$now" ] && [ -n "$written" ] && echo "archive $((now - written))"
# The age of the first process, in two ways: from ps, which relies on /proc/uptime and may be far too high where lxcfs
# makes that up for the container; and from the times at which that process and awk began. The smaller one counts.
echo "container $(ps -o etimes= -p 1 2>/dev/null | tr -d ' ')"
began() { awk '{ sub(/^.*\) /, ""); print $20; exit }' "$1" 2>/dev/null; }
first=$(began /proc/1/stat) self=$(began /proc/self/stat) hertz=$(getconf CLK_TCK 2>/dev/null)
[ -n "$first" ] && [ -n "$self" ] && echo "container $(((self - first) / ${hertz:-100}))"
echo end
