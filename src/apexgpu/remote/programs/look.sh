# Lists the CUDAs, the cuDNNs and the Pythons of a container. recipes/computeoutput.py reads the output.
#   $1  the program (compute.py) that each Python runs to report its TensorFlow
#   $2  the Python or environment that the user named, or nothing
#   $3  the home directory on the laptop, whose shell may have expanded a `~` in $2 to it
# A Python that runs a text looks for modules in the working directory first: not in the user's home, then.
cd /
for d in /usr/local/cuda /usr/local/cuda-*; do
  [ -d "$d" ] || continue
  v=$(sed -n 's/^CUDA Version \([0-9.]*\).*/\1/p' "$d/version.txt" 2>/dev/null)
  [ -n "$v" ] || v=$("$d/bin/nvcc" --version 2>/dev/null | sed -n 's/.*, V\([0-9.]*\).*/\1/p')
  echo "apexgpu-cuda $v $(readlink -f "$d")"
done
for h in /usr/local/cuda*/include/cudnn_version.h /usr/local/cuda*/include/cudnn.h \
  /usr/include/cudnn*.h /usr/include/x86_64-linux-gnu/cudnn*.h; do
  v=$(awk '/^#define CUDNN_(MAJOR|MINOR|PATCHLEVEL) /{printf "%s%s", s, $3; s="."}' "$h" 2>/dev/null)
  [ -z "$v" ] || echo "apexgpu-cudnn $v $(readlink -f "$h")"
done
program=$1 named=$2 laptop=$3
case "$named" in "~/"*) named=$HOME/${named#??} ;; esac
case "$named" in "$laptop"/*) [ -e "$named" ] || named=$HOME/${named#"$laptop"/} ;; esac
if [ -n "$named" ]; then
  case "$named" in /*) ;; *) named=$HOME/$named ;; esac
  [ ! -d "$named" ] || named=$named/bin/python
  set -- "$named"
else
  set -- "$HOME/.virtualenvs/tensorflow/bin/python" "$HOME/.virtualenvs/tensorflow-py2/bin/python" \
    "$(command -v python)" "$(command -v python3)" "$(command -v python2)" \
    "$HOME"/.virtualenvs/*/bin/python "$HOME"/*venv*/bin/python "$HOME"/.venv*/bin/python "$HOME"/env*/bin/python \
    "$HOME"/*/*venv/bin/python "$HOME"/*conda*/bin/python "$HOME"/*conda*/envs/*/bin/python \
    "$HOME"/miniforge*/bin/python "$HOME"/miniforge*/envs/*/bin/python "$HOME"/.pyenv/versions/*/bin/python \
    /opt/*conda*/bin/python /opt/*conda*/envs/*/bin/python /usr/local/bin/python3 /usr/bin/python3 /usr/bin/python2
fi
seen=:
for p; do
  [ -x "$p" ] && [ ! -d "$p" ] || continue
  case "$seen" in *":$p:"*) continue ;; esac
  seen=$seen$p:
  timeout -k 2 20 "$p" -c "$program" '{"do": "look"}' "$p" 2>/dev/null </dev/null || echo "apexgpu-silent $p"
done
echo apexgpu-looked
