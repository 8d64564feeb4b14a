#!/bin/sh
# A stand-in for NVIDIA's cuda_9.0.176_384.81_linux.run: a self-extracting archive with its options, checks, words,
# exit codes and files. The payload follows the line __PAYLOAD__.
sum="@SUM@"
need=64
silent=no toolkit=no override=no tmpdir=${TMPDIR:-/tmp} target=/usr/local/cuda-9.0
payload() { sed '1,/^__PAYLOAD__$/d' "$0"; }
while [ $# -gt 0 ]; do
  case $1 in
  --check)
    found=$(payload | md5sum | cut -d' ' -f1)
    [ "$found" = "$sum" ] || { echo "Error in MD5 checksums: $found is different from $sum" >&2; exit 2; }
    echo " MD5 checksums are OK. All good."
    exit 0 ;;
  --silent) silent=yes ;;
  --toolkit) toolkit=yes ;;
  --override) override=yes ;;
  --toolkitpath=*) target=${1#*=} ;;
  --toolkitpath) target=$2; shift ;;
  --tmpdir=*) tmpdir=${1#*=} ;;
  --tmpdir) tmpdir=$2; shift ;;
  --driver | --samples)
    echo "This stand-in has no driver and no samples." >&2
    exit 1 ;;
  *) echo "Unrecognized flag : $1" >&2; exit 1 ;;
  esac
  shift
done
if [ "$silent" != yes ]; then
  echo "Do you accept the previously read EULA?"
  echo "accept/decline/quit: "
  read -r answer && [ "$answer" = accept ] || exit 1
fi
[ "$(id -u)" = 0 ] || { echo "Toolkit: The installer must be run with root privileges." >&2; exit 1; }
free=$(df -Pm "$tmpdir" | awk 'NR == 2 { print $4 }')
if [ "$free" -lt "$need" ]; then
  echo "Not enough space on parition mounted at $tmpdir."
  echo "Need $((need * 1048576)) bytes."
  echo
  echo "Disk space check has failed. Installation cannot continue."
  exit 1
fi
room=$(mktemp -d "$tmpdir/selfgzXXXXXX")
payload | tar -xzf - -C "$room" || {
  echo "Extraction failed."
  echo "Ensure there is enough space in $tmpdir and that the installation package is not corrupt"
  echo "Signal caught, cleaning up"
  rm -rf "$room"
  exit 1
}
cd "$room" || exit 1
./install-linux "$toolkit" "$override" "$target"
code=$?
rm -rf "$room"
exit $code
__PAYLOAD__
