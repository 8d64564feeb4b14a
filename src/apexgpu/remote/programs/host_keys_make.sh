# Make new SSH host keys beside those in use, and print their public halves, then `end`. Runs as root.
# The old keys stay in use until the laptop knows the new ones, so that an interruption locks nobody out.
d=/etc/ssh/new-host-keys
rm -rf $d && mkdir -m 700 $d || exit 1
for kind in ed25519 ecdsa rsa; do
  ssh-keygen -q -N "" -t $kind -f $d/ssh_host_${kind}_key || exit 1
done
cat $d/*.pub && echo end
