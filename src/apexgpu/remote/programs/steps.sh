# Functions for the texts of steps in recipes. POSIX sh, read before each text; the texts run under `set -e`.
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PYTHONNOUSERSITE=1
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_PYTHON_VERSION_WARNING=1 PIP_NO_INPUT=1 PIP_PROGRESS_BAR=off
ENVIRONMENTS=$HOME/.virtualenvs

say() { printf '%s\n' "$*"; }
as_root() { sudo -n "$@"; }

# --- packages of the distribution
has_packages() {
  for package; do
    dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' || return 1
  done
}
install_packages() {
  has_packages "$@" && return 0
  when_unlocked dpkg --configure -a # finishes what a killed run left half done
  when_unlocked apt-get -q update || say "could not update the package lists; continuing with the old ones"
  when_unlocked apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef \
    -o Dpkg::Options::=--force-confold install --no-install-recommends "$@"
}
LOCK_LOOKS=60
# A new container often upgrades itself first, and apt's own option to wait for it is newer than Ubuntu 18.04.
when_unlocked() {
  looks=0
  while :; do
    { as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C "$@" 2>&1 && echo 0 >"$RUN/code" || echo $? >"$RUN/code"; } |
      tee "$RUN/said"
    code=$(cat "$RUN/code")
    [ "$code" != 0 ] && [ "$looks" -lt "$LOCK_LOOKS" ] &&
      grep -q 'Could not get lock\|Unable to lock\|Unable to acquire the dpkg\|is locked by another' "$RUN/said" || return "$code"
    looks=$((looks + 1))
    say "waiting for another apt"
    sleep 5
  done
}

# --- files of the system: replaced atomically; the first version is kept
same_file() { as_root cmp -s - "$1"; } # whether the file $1 has the content of stdin
keep_original() {
  as_root test ! -e "$1" || as_root test -e "$1.before-apexgpu" || as_root cp -p "$1" "$1.before-apexgpu"
}
put_file() { # put_file PATH: write stdin to PATH, readable for everybody
  new=$(mktemp "${TMPDIR:-/tmp}/apexgpu.XXXXXX")
  cat >"$new"
  if ! same_file "$1" <"$new"; then
    keep_original "$1"
    as_root mkdir -p "$(dirname "$1")"
    as_root cp "$new" "$1.apexgpu-new"
    as_root chmod 644 "$1.apexgpu-new"
    as_root mv -f "$1.apexgpu-new" "$1"
  fi
  rm -f "$new"
}

# --- /etc/environment, which reaches every login: `ssh HOST COMMAND` too
login_path_has() { # whether there is a PATH line, and every one contains the directory
  awk -v dir="$1" '
    /^[ \t]*(export[ \t]+)?PATH=/ {
      seen = 1; value = $0; sub(/^[^=]*=/, "", value); gsub(/["'"'"' \t\r]/, "", value)
      if (index(":" value ":", ":" dir ":") == 0) missing = 1
    }
    END { exit (seen && !missing) ? 0 : 1 }' /etc/environment 2>/dev/null
}
add_to_login_path() {
  login_path_has "$1" && return 0
  { cat /etc/environment 2>/dev/null || true; } | awk -v dir="$1" '
    /^[ \t]*(export[ \t]+)?PATH=/ {
      seen = 1; sub(/[ \t\r]+$/, ""); value = $0; sub(/^[^=]*=/, "", value); gsub(/["'"'"']/, "", value)
      if (index(":" value ":", ":" dir ":") == 0) {
        quote = ""
        if (match($0, /["'"'"']$/)) { quote = substr($0, RSTART); $0 = substr($0, 1, RSTART - 1) }
        $0 = $0 ":" dir quote
      }
    }
    { print }
    END { if (!seen) print "PATH=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" dir "\"" }
  ' >"$RUN/environment"
  put_file /etc/environment <"$RUN/environment"
}
login_variable_is() { grep -q -x "$1=\"\{0,1\}$2\"\{0,1\}" /etc/environment 2>/dev/null; }
set_login_variable() { # set_login_variable NAME VALUE
  login_variable_is "$1" "$2" && return 0
  { cat /etc/environment 2>/dev/null || true; } | awk -v name="$1" -v value="$2" '
    $0 ~ "^[ \t]*(export[ \t]+)?" name "=" { next } { print } END { print name "=" value }' >"$RUN/environment"
  put_file /etc/environment <"$RUN/environment"
}

# --- Python environments: made where they stay (they cannot be moved); ready when the file .apexgpu-ready is there
python_can_make() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }
environment_ready() { # environment_ready DIRECTORY WHAT CODE
  [ "$(cat "$1/.apexgpu-ready" 2>/dev/null)" = "$2" ] && "$1/bin/python" -c "$3" >/dev/null 2>&1
}
begin_environment() { # begin_environment DIRECTORY PYTHON: with the pinned pip, setuptools and wheel; keeps a ready one
  if [ -e "$1" ] && [ ! -e "$1/.apexgpu-making" ] && [ ! -e "$1/.apexgpu-ready" ]; then
    say "$1 exists and was not made by apexgpu: move it away first"
    return 1
  fi
  if [ ! -e "$1/.apexgpu-ready" ]; then
    rm -rf "$1"
    mkdir -p "$1"
    : >"$1/.apexgpu-making"
    make_environment "$1" "$2"
  fi
  if [ -s "$CONSTRAINTS" ]; then
    "$1/bin/python" -m pip install "pip==$PIP"
    "$1/bin/python" -m pip install -c "$CONSTRAINTS" setuptools wheel
  fi
}
make_environment() {
  case $2 in
    python2*)
      command -v virtualenv >/dev/null 2>&1 && command -v "$2" >/dev/null 2>&1 || install_packages "$2" virtualenv
      virtualenv -q -p "$(command -v "$2")" "$1" ;;
    *)
      python_can_make "$2" || install_packages "$2" "$2-venv"
      "$2" -m venv "$1" ;;
  esac
}
into_environment() { # into_environment DIRECTORY REQUIREMENT...
  into=$1
  shift
  if [ -s "$CONSTRAINTS" ]; then
    "$into/bin/python" -m pip install --prefer-binary -c "$CONSTRAINTS" "$@"
  else
    "$into/bin/python" -m pip install "$@"
  fi
}
finish_environment() { # finish_environment DIRECTORY WHAT [NAME]: mark it as ready, and link NAME to it
  printf '%s\n' "$2" >"$1/.apexgpu-new"
  mv -f "$1/.apexgpu-new" "$1/.apexgpu-ready"
  rm -f "$1/.apexgpu-making"
  [ -z "${3:-}" ] || point_to "$1" "$ENVIRONMENTS/$3"
}
point_to() { # point_to DIRECTORY LINK: replace the link atomically, never anything else
  if [ -e "$2" ] && [ ! -L "$2" ]; then
    say "$2 exists and was not made by apexgpu: move it away first"
    return 1
  fi
  rm -f "$2.apexgpu-new"
  ln -s "$(basename "$1")" "$2.apexgpu-new"
  mv -T -f "$2.apexgpu-new" "$2"
}
points_to() { [ "$(readlink "$2" 2>/dev/null)" = "$(basename "$1")" ]; }

# --- notebooks: environments as Jupyter kernels, by the name of their link
KERNELS=$ENVIRONMENTS/jupyter/share/jupyter/kernels
offers_kernel() { # also true without Jupyter, or without the environment
  [ ! -e "$ENVIRONMENTS/jupyter/.apexgpu-ready" ] || [ ! -e "$ENVIRONMENTS/$1/.apexgpu-ready" ] ||
    [ -s "$KERNELS/$1/kernel.json" ]
}
offer_kernel() {
  offers_kernel "$1" || "$ENVIRONMENTS/$1/bin/python" -m ipykernel install --prefix "$ENVIRONMENTS/jupyter" \
    --name "$1" --display-name "$1"
}

# --- memory growth: the hook in a directory of packages
has_old_tensorflow() { # whether a directory of packages contains a TensorFlow before 1.12
  for info in "$1"/tensorflow*-1.[0-9].*-info "$1"/tensorflow*-1.1[01].*-info; do
    [ ! -e "$info" ] || return 0
  done
  return 1
}
# The package directories of the system's Pythons, and of every environment with a TensorFlow before 1.12.
growth_places() {
  echo /usr/local/lib/python2.7/dist-packages # also without Python 2.7: another recipe of the same setup may install it
  python=/usr/bin/python3
  [ ! -x "$python" ] || echo "/usr/local/lib/python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')/dist-packages"
  for place in "$HOME"/.virtualenvs/* "$HOME"/.local "$HOME"/*env* "$HOME"/.*env* "$HOME"/*/*env* "$HOME"/*/.*env* \
    "$HOME"/*conda* "$HOME"/*conda*/envs/* "$HOME"/miniforge* "$HOME"/miniforge*/envs/* /opt/*conda* /opt/*conda*/envs/*; do
    [ -d "$place/lib" ] && [ ! -L "$place" ] || continue
    for packages in "$place"/lib/python*/site-packages; do
      ! has_old_tensorflow "$packages" || echo "$packages"
    done
  done | sort -u
}
grows() { cmp -s "$FILES/apexgpu_growth.py" "$1/apexgpu_growth.py" && [ -s "$1/apexgpu_growth.pth" ]; }
make_grow() { # make_grow DIRECTORY [as_root]
  ${2:-} mkdir -p "$1"
  ${2:-} cp "$FILES/apexgpu_growth.py" "$1/apexgpu_growth.py"
  ${2:-} chmod 644 "$1/apexgpu_growth.py"
  echo 'import apexgpu_growth' >"$RUN/growth.pth"
  ${2:-} cp "$RUN/growth.pth" "$1/apexgpu_growth.pth"
  ${2:-} chmod 644 "$1/apexgpu_growth.pth"
}
