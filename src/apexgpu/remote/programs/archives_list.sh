# List a user's archives in a directory: free space, whether it can be written, each archive and its manifest.
# Arguments: the directory, the user.
LC_ALL=C; export LC_ALL
user=$2 me=$(id -u)
cd "$1" 2>/dev/null || { echo nodir; echo end; exit 0; }
df -Pk . | awk 'NR==2 { print "free " $4 }'
# Whether a file can be made is tried, not read from the mode bits: the NAS has its own rules.
probe=.apexgpu-probe.$$
(: >"$probe") 2>/dev/null && rm -f -- "$probe" && echo writable
for f in "$user".tar.gz "$user"-*.tar.gz; do
  # Others can write here: a name with a line feed in it could imitate any line of this output.
  case $f in *"
"*) continue ;; esac
  [ -f "$f" ] || continue
  # A file of the server's own root shows another owner in here, and nobody in here can change its mode.
  owner=$(stat -L -c %u -- "$f")
  case $owner in 0 | "$me") whose=own ;; *) whose=server ;; esac
  stat -L -c "file %s %Y %a $whose %n" -- "$f"
  [ -f "$f.json" ] && { printf 'note '; head -c 4000 -- "$f.json" | tr -d '\n'; echo; }
done
echo end
