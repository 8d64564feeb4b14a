# Run the program $1 with the argument $2 in the first Python 3 that the container has.
# -I: neither the files of the directory nor PYTHONPATH are imported; a json.py of the user's would be run otherwise.
# The locale is set so that Python 3.5 and 3.6 read and print UTF-8 under any login.
export LC_ALL=C.UTF-8
for p in python3 "$HOME"/*conda3/bin/python3 "$HOME"/miniforge3/bin/python3 /opt/*conda*/bin/python3 \
  "$HOME"/.pyenv/shims/python3; do
  command -v "$p" >/dev/null 2>&1 && exec "$p" -I -c "$1" "$2"
done
echo 'apexgpu {"error": "no_python"}'
