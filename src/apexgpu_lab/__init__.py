"""The embedded lab: an IAM and GPU hosts on loopback, that answer as the real ones do.

It stands for the servers, so it never imports what the client reads their answers with: it shares only the
error tree and the file tools. `client` drives a lab in a process of its own, `inprocess` one in a thread;
`world` is the state, `iam`, `shell` and `sshd` are what speaks.
"""
