# Sourced: `supported`, the Pythons that apexgpu runs on, and `find_python 3.12`, which prints a path to that one.
supported="3.11 3.12 3.13 3.14"
find_python() {
  for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python \
    "${XDG_DATA_HOME:-$HOME/.local/share}"/uv/python/cpython-"$1".*/bin/python; do
    # A name is not enough: pyenv puts a stub of every version that it has in PATH, and most of them refuse to run.
    "$candidate" -c "import sys; '%d.%d' % sys.version_info[:2] == '$1' or sys.exit(1); print(sys.executable)" \
      2>/dev/null && return
  done
  return 1
}
