# Print how many seconds the container has been up.
# /proc/uptime may be the host's own there (without lxcfs), hence ps first.
LC_ALL=C; export LC_ALL
echo apexgpu-starts
ps -o etimes= -p 1 2>/dev/null || cut -d' ' -f1 /proc/uptime
