"""The embedded lab: an IAM and GPU hosts on loopback that answer as the real ones do.

The lab plays the servers, so it never imports the code with which apexgpu reads their replies. It
shares only the error tree and the file functions with apexgpu.

Where to start reading:

- `client` starts and controls a lab in another process; `inprocess` runs one in a thread.
- `labserver` is that lab: it owns the state (`labstate`), the sockets (`network`) and IAM (`iam`).
- `shell*` is the manage shell of the hosts, `manage_sshd` and `container_sshd` the ssh servers.
- `faults` lists the misbehaviour that can be switched on.
- `tool_*` are the programs that a container has instead of the real ones (nvidia-smi, ps ...).
"""
