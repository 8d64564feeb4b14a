"""apexgpu: from an empty laptop to a container on the lab's shared GPU servers."""

__version__ = "0.1.0"
