"""What runs in a container, sent as text to its own Python: 3.5 or newer (Ubuntu 16.04), the standard library alone.

Nothing of apexgpu but these files, which are joined before they are sent, and no newer syntax (a test looks).
"""
