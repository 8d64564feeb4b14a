"""What differs between Linux, macOS and Windows: tables of pure functions, with the three systems side by side.

No other package asks which system it runs on (`tests/test_platforms.py`). Most functions take the `System` as an
argument, so that a test on Linux can ask for the answer of each.
"""
