"""What the manage shells do for a container, how their words are read, and what a container is asked."""
