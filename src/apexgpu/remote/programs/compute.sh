# Let the Python $1 run the program $2 with the argument $3, for $4 seconds at most.
# A status of its own line: what ssh makes of a signal differs from client to client. What is in use on each GPU when
# it has ended tells what it had taken itself: others come and go meanwhile.
timeout -k 5 "$4" "$1" -c "$2" "$3" </dev/null
code=$?
timeout 20 nvidia-smi --query-gpu=index,memory.used --format=csv,noheader,nounits </dev/null 2>/dev/null |
  sed 's/^/apexgpu-left /'
echo "apexgpu-end $code"
