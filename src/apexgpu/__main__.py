"""The entry."""

def main() -> int:
    return 0
