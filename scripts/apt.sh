# Sourced: apt_install PACKAGE… installs Debian packages where that can be done, else says what to type.
apt_install() {
  echo "setup: installing $*" >&2
  sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: please install what corresponds to the Debian packages: $*" >&2
    return 1
  fi
  $sudo apt-get -qq update >/dev/null 2>&1 || true
  DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}
