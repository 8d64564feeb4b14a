"""How a command reaches a host: its route, connections that stay open, paramiko, OpenSSH, many hosts at once."""
