# Runs the command "$@" as the account's login shell does after `ssh HOST`: with all of the shell's start-up files.
# csh has no option that reads them for a command, so there it is run as it is.
case "${SHELL:-/bin/sh}" in
*/fish) exec "$SHELL" -i -l -c 'echo; exec $argv' "$@" ;;
*/csh|*/tcsh) echo; exec "$@" ;;
*) exec "${SHELL:-/bin/sh}" -ilc 'echo; exec "$@"' apexgpu "$@" ;;
esac
