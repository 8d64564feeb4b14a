# Prints what decides whether an editor's server runs in a container: lines `apexgpu NAME VALUE`. POSIX sh.
#   $1  the directory to open, relative to the home directory; empty for the home directory
#   $2  the directory of the editor's servers, relative to the home directory
#   $3  the URL that such a server is downloaded from
LC_ALL=C; export LC_ALL
say() { printf 'apexgpu %s\n' "$*"; }
system() { sed -n "s/^PRETTY_NAME=//p" /etc/os-release 2>/dev/null | tr -d '"' | head -n 1; }

say system "$(system)"
say glibc "$(getconf GNU_LIBC_VERSION 2>/dev/null | sed -n 's/^glibc //p')"
# With this variable, VS Code runs its server with a newer glibc that somebody put beside the system's own.
[ -z "${VSCODE_SERVER_CUSTOM_GLIBC_LINKER:-}" ] || say own_glibc yes
cd || exit 1
say home "$(pwd)"
say free "$(df -Pk . 2>/dev/null | awk 'NR == 2 { print $4 }')"
if [ -z "$1" ] || [ -d "$1" ]; then
  [ -z "$1" ] || cd -- "$1" || exit 1
  say directory "$(pwd)"
fi
cd || exit 1
for installed in "$2"/bin/*/ "$2"/cli/servers/*/; do
  if [ -d "$installed" ]; then
    say server yes
    exit 0
  fi
done
if command -v curl >/dev/null 2>&1; then
  if curl -sIo /dev/null -m 5 "$3" 2>/dev/null; then say internet yes; else say internet no; fi
elif command -v wget >/dev/null 2>&1; then
  if wget -q --spider -T 5 -t 1 "$3" 2>/dev/null; then say internet yes; else say internet no; fi
fi
