"""What the GPUs of the hosts do, and which of them are free."""
