"""Files and trees between this laptop and a container, whole or not at all."""
