TABLE: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {}
