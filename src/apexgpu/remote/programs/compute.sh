# Lets the Python $1 run the program $2 (compute.py) with the argument $3, for at most $4 seconds.
# The exit status is printed, because ssh clients report signals in different ways. The memory in use on each GPU
# afterwards shows what the program had taken itself: the programs of others start and end meanwhile.
# A Python that runs a text looks for modules in the working directory first: not in the user's home, then.
cd /
timeout -k 5 "$4" "$1" -c "$2" "$3" </dev/null
code=$?
timeout 20 nvidia-smi --query-gpu=index,memory.used --format=csv,noheader,nounits </dev/null 2>/dev/null |
  sed 's/^/apexgpu-left /'
echo "apexgpu-end $code"
