# Prints the facts about a container that decide which software is compatible: lines `apexgpu NAME VALUE`.
# POSIX sh, sent as text. $1 is the directory with the installers. It changes nothing.
# recipes/facts.py reads the output.
cd / # a Python that runs a text looks for modules in the working directory first
LC_ALL=C; export LC_ALL
say() { printf 'apexgpu %s\n' "$*"; }
short() { tr '\n\t' '  ' | cut -c 1-300; }
quick() { if command -v timeout >/dev/null 2>&1; then timeout 20 "$@"; else "$@"; fi; }

say machine "$(uname -m)"
say home "$HOME"
for name in ID VERSION_ID PRETTY_NAME; do
  say "os_$name" "$(sed -n "s/^$name=//p" /etc/os-release 2>/dev/null | tr -d '"' | head -n 1)"
done

smi() {
  output=$(quick nvidia-smi --query-gpu="$1" --format="$2" 2>&1)
  code=$?
}
if ! command -v nvidia-smi >/dev/null 2>&1; then
  say gpu_trouble "there is no nvidia-smi"
else
  smi driver_version,name,memory.total csv,noheader,nounits
  [ "$code" = 0 ] || [ "$code" = 124 ] || smi driver_version csv,noheader # an old nvidia-smi may not know every field
  if [ "$code" = 0 ]; then
    printf '%s\n' "$output" | while IFS= read -r line; do say gpu "$line"; done
  else
    [ "$code" != 124 ] || output="nvidia-smi does not answer within 20 s"
    say gpu_trouble "$(printf '%s' "$output" | tail -n 1 | short)"
  fi
fi

cuda=/usr/local/cuda-9.0
if [ -x "$cuda/bin/nvcc" ]; then
  say cuda "$(sed -n 's/^CUDA Version //p' "$cuda/version.txt" 2>/dev/null | head -n 1)"
fi
header=$cuda/include/cudnn.h
[ -e "$header" ] || header=/usr/include/cudnn.h
cudnn_version() { # of the cudnn.h on stdin
  awk '$1 == "#define" && $2 == "CUDNN_MAJOR" { a = $3 } $1 == "#define" && $2 == "CUDNN_MINOR" { b = $3 }
       $1 == "#define" && $2 == "CUDNN_PATCHLEVEL" { c = $3 } END { if (a != "") print a "." b "." c }'
}
[ ! -e "$header" ] || say cudnn "$(cudnn_version <"$header")"
for library in "$cuda/lib64/libcudnn.so.7" /usr/lib/x86_64-linux-gnu/libcudnn.so.7; do
  [ ! -e "$library" ] || { say cudnn_library "$(readlink -f "$library" | sed 's/.*\.so\.//')"; break; }
done
for archive in "$1"/cudnn-9.0-linux-x64-*.tgz; do
  [ ! -e "$archive" ] || say cudnn_archive "$(
    quick tar -xzOf "$archive" --occurrence=1 cuda/include/cudnn.h 2>/dev/null | cudnn_version) $archive"
done

for python in python2.7 python3 python3.4 python3.5 python3.6 python3.7 python3.8; do
  program=$(command -v "$python" 2>/dev/null) || continue
  version=$(quick "$program" -c 'import sys; print("%d.%d.%d %d" % (sys.version_info[:3] + (sys.maxunicode > 65535,)))' \
    2>/dev/null) || continue
  say python "$version $program"
done

for directory in / /usr/local /tmp "$HOME"; do
  free=$(df -Pk "$directory" 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }')
  [ -z "$free" ] || say free "$directory $free $(stat -c %d "$directory")" # two tmpfs have the same name, but two numbers
done

if sudo -n true 2>/dev/null; then say sudo yes; else say sudo no; fi
notes=$HOME/.cache/apexgpu/setup
# A setup holds this lock as long as it runs.
if [ -e "$notes/lock" ] && ! flock -s -n "$notes/lock" true; then say busy "$(cat "$notes/id" 2>/dev/null | short)"; fi
say end
