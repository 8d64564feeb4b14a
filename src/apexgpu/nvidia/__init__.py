"""nvidia-smi in a container: asking it, parsing what it prints, and deciding which GPUs are free."""
