# Sourced: apt_install PACKAGE… installs Debian packages where that can be done, else says what to type.
# know_localhost makes /etc/hosts where there is none.
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

# A root file system that was only unpacked, as mmdebstrap makes one of Debian 12, does not know its own name for loopback.
know_localhost() {
  if [ "$(id -u)" = 0 ] && [ ! -e /etc/hosts ]; then
    printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >/etc/hosts
  fi
}
