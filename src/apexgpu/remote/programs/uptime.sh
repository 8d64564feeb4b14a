# Print how many seconds the container has been up.
# /proc/uptime may be the host's own there (without lxcfs), hence ps first.
echo apexgpu-starts
ps -o etimes= -p 1 2>/dev/null || cut -d' ' -f1 /proc/uptime
