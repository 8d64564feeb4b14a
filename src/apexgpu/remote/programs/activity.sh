# Print who is logged in, a line `---`, and the programs that compute on the GPUs.
LC_ALL=C; export LC_ALL
echo apexgpu-starts
who 2>/dev/null
echo ---
nvidia-smi --query-compute-apps=pid,process_name --format=csv,noheader 2>/dev/null
true
