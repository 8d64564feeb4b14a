# Install what is missing of the packages $1 through apt; $2: seconds to wait for another apt; $3: what begins an answer.
# apt works in a session of its own and writes to a file, which is followed: when this connection is lost, or on
# Ctrl-C, it goes on to its end, and dpkg is never cut in the middle. An option of apt to wait for the lock is newer
# than Ubuntu 18.04 (apt 1.9.11), hence the loop. The lists are fetched anew only when apt misses something.
export LC_ALL=C
need=
for p in $1; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || need="$need $p"; done
[ -n "$need" ] || { echo "$3 present"; exit 0; }
command -v apt-get >/dev/null 2>&1 || { echo "$3 no_apt"; exit 0; }
sudo -n true 2>/dev/null || { echo "$3 no_sudo"; exit 0; }
echo "installing$need"
log=$(mktemp) || { echo "$3 no_room"; exit 0; }
cat >"$log.sh" <<'END'
log=$1; need=$2; end=$(($(date +%s) + $3))
apt() {
  while :; do
    sudo -n env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0 -o Acquire::Retries=2 \
      -o Acquire::http::Timeout=30 "$@" >"$log.one" 2>&1 </dev/null
    code=$?
    cat "$log.one" >>"$log"
    grep -q 'Could not get lock\|Unable to lock\|Unable to acquire the dpkg' "$log.one" || return $code
    [ "$(date +%s)" -lt "$end" ] || return 99
    echo 'waiting for another apt' >>"$log"
    sleep 2
  done
}
install() { apt install --no-install-recommends $need; }
install
code=$?
old='Unable to locate\|no installation candidate\|404 \|Unable to fetch\|Hash Sum'
if [ $code -ne 0 ] && grep -q "$old" "$log"; then
  echo 'fetching the lists of packages' >>"$log"
  apt update
  install
  code=$?
fi
echo $code >"$log.code.new"; mv "$log.code.new" "$log.code"
END
setsid sh "$log.sh" "$log" "$need" "$2" </dev/null >/dev/null 2>&1 &
seen=0
while :; do
  ended=; [ -f "$log.code" ] && ended=1
  now=$(wc -l <"$log")
  [ "$now" -le "$seen" ] || sed -n "$((seen + 1)),${now}p" "$log"
  seen=$now
  [ -z "$ended" ] || break
  sleep 0.3
done
code=$(cat "$log.code")
rm -f "$log" "$log.sh" "$log.one" "$log.code"
left=
for p in $1; do dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed$' || left="$left $p"; done
echo "$3 done $code$left"
