# Put the keys that host_keys_make.sh made into use, and restart sshd. Runs as root.
# The checksum file records that the container has keys of its own: the recipe `hostkeys` reads it.
cd /etc/ssh || exit 1
rm -f ssh_host_dsa_key ssh_host_dsa_key.pub && mv -f new-host-keys/* . && rmdir new-host-keys &&
  sha256sum ssh_host_*_key.pub >.apexgpu-host-keys || exit 1
systemctl restart ssh 2>/dev/null || service ssh restart
