# Print the address and inode of every socket that listens for TCP connections, one in a line: `apexgpu 0100007F:1776 31337`.
# proc_net_tcp(5): state 0A is TCP_LISTEN. A kernel without IPv6 has no tcp6.
LC_ALL=C; export LC_ALL
awk '$4 == "0A" { print "apexgpu", $2, $10 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null
true
