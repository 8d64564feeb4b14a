"""What a copy has to do: the source compared with the target and with what an earlier run left.

Pure.
"""

from dataclasses import dataclass, field

from apexgpu.transfer.fileinfo import FileKind, Tree, is_directory, parents


@dataclass(slots=True)
class CopyPlan:
    """What has to be done so that the target holds what the source does. Paths are those of a Tree.

    - `directories`: to be made in the staging directory, outermost first
    - `new_directories`: directories that the target does not have; they get the source's mode and
      time, innermost first
    - `files`, `links`: to be sent
    - `modes`: files whose content is right and whose mode is not
    - `complete`: in the staging directory already, sent by an earlier run
    - `leftovers`: also there, and not wanted: the source has no such name any more
    - `conflicts`: a directory on one side, something else on the other
    - `skipped`: sockets, pipes and devices; also links, on a system that does not let the user make
      any
    """

    directories: list[bytes] = field(default_factory=list)
    new_directories: list[bytes] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    links: list[bytes] = field(default_factory=list)
    modes: list[bytes] = field(default_factory=list)
    complete: list[bytes] = field(default_factory=list)
    leftovers: list[bytes] = field(default_factory=list)
    conflicts: list[bytes] = field(default_factory=list)
    skipped: list[bytes] = field(default_factory=list)

    @property
    def sends_anything(self) -> bool:
        """Whether anything is missing from the target and from the staging directory."""
        return bool(self.files or self.links or self.new_directories)


def plan_copy(source: Tree, target: Tree, staged: Tree, *, modes: bool = True) -> CopyPlan:
    """Compare three trees.

    What only the target has stays; what is complete in `staged` is not sent again.

    `modes` is False when one of the two systems has no permission bits (Windows).
    """
    plan = CopyPlan()
    for path in source:
        _plan_path(plan, path, source, target, staged, modes=modes)

    # A directory is made for itself, or because something in it is sent.
    needed = set(plan.new_directories)
    for path in (*plan.files, *plan.links):
        needed.update(parents(path))
    for path in source:
        if path in needed and not is_directory(staged, path):
            plan.directories.append(path)
    plan.new_directories.sort(reverse=True)

    wanted = {*plan.files, *plan.links, *plan.complete}
    for path, info in staged.items():
        keep = is_directory(source, path) if info.is_directory else path in wanted
        if not keep:
            plan.leftovers.append(path)
    return plan


def _plan_path(
    plan: CopyPlan, path: bytes, source: Tree, target: Tree, staged: Tree, *, modes: bool
) -> None:
    """Enter one path of the source into the plan."""
    info = source[path]
    existing = target.get(path)
    if existing is not None and info.is_directory != existing.is_directory:
        if info.kind is not FileKind.SPECIAL:
            plan.conflicts.append(path)
    elif info.is_directory:
        if existing is None:
            plan.new_directories.append(path)
    elif info.kind is FileKind.SPECIAL:
        plan.skipped.append(path)
    elif existing is not None and info.same_content(existing):
        if modes and info.kind is FileKind.FILE and info.mode != existing.mode:
            plan.modes.append(path)
    elif info.same_content(staged.get(path)):
        plan.complete.append(path)
    elif info.kind is FileKind.LINK:
        plan.links.append(path)
    else:
        plan.files.append(path)
