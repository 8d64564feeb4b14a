# Functions that keep two members from working on one GPU. POSIX sh.
#
# Every GPU has a file, named by its UUID, in a directory that all containers of a host share. A run holds an flock(1)
# on it for as long as a process of the run lives: the kernel releases it, so nothing is left over after a crash. The
# file contains who holds it.
gpu_lock_directory() { # print the directory; make it if needed
  for shared in /SSD /ssd; do
    [ -d "$shared" ] || continue
    directory=$shared/.apexgpu-gpus
    # 1777, as /tmp: everybody may add a file, nobody may remove another's. Whoever comes first makes it.
    mkdir -m 1777 "$directory" 2>/dev/null
    if [ -d "$directory" ] && [ ! -h "$directory" ] && [ -w "$directory" ]; then
      echo "$directory"
      return
    fi
  done
  # Without a shared directory, the locks hold among this container's own runs.
  directory=$HOME/.cache/apexgpu/gpus
  mkdir -p "$directory" && echo "$directory"
}

open_gpu_lock() { # open_gpu_lock FILE: open it as descriptor 9; made if it is missing
  # Another member's file is never opened with O_CREAT, which Linux forbids in such a directory (fs.protected_regular).
  [ -e "$1" ] || (umask 0; set -C; : >"$1") 2>/dev/null
  # A link could lead to a file of ours, and a FIFO would never open.
  [ -f "$1" ] && [ ! -h "$1" ] || return 1
  exec 9<"$1"
}

lock_gpu() { # lock_gpu DIRECTORY UUID OWNER: 0 and the lock on descriptor 9, or 1 if somebody else holds it
  file=$1/$2
  open_gpu_lock "$file" || return 1
  # Whoever only looks whether the GPU is locked holds the lock for a moment.
  flock -w 0.5 9 || { exec 9<&-; return 1; }
  printf '%s\n' "$3" | dd of="$file" conv=nocreat 2>/dev/null
  return 0
}

gpu_locks() { # a line "@lock UUID OWNER" for every GPU that is locked; makes nothing
  command -v flock >/dev/null || return 0
  for file in /SSD/.apexgpu-gpus/* /ssd/.apexgpu-gpus/* "$HOME"/.cache/apexgpu/gpus/*; do
    [ -f "$file" ] && open_gpu_lock "$file" || continue
    flock -n -s 9 || echo "@lock ${file##*/} $(head -c 200 "$file" | head -n 1)"
    exec 9<&-
  done
}
