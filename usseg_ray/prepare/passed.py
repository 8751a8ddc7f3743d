"""Files that are not read: counted by kind on a walk, and said."""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from usseg_ray.core.sources import walk
from usseg_ray.data.decode import HEIC_SUFFIXES
from usseg_ray.prepare.description import FILE


class PassedFiles:
    """Counts what is not read, by kind.

    Args:
        read: Files that are read by others than the layout, and are not to be counted.
    """

    def __init__(self, read: Collection[Path] = ()) -> None:
        self._read = read
        self._kinds = Counter[str]()
        self._remarks: list[str] = []

    def hidden(self, _: Path) -> None:
        """Counts a hidden file, or one that a system left behind."""
        self._kinds["hidden"] += 1

    def made(self, _: Path) -> None:
        """Counts a folder that a run made."""
        self._kinds["folders of runs"] += 1

    def other(self, path: Path) -> None:
        """Counts a file that fits no pattern."""
        if path.name != FILE and path not in self._read:
            self._kinds[path.suffix.lower() or "without suffix"] += 1

    def unreadable(self, error: OSError) -> None:
        """Remembers a folder that cannot be read."""
        self._remarks.append(f"{error.filename}: cannot be read ({error.strerror}).")

    def called_as_images(self, paths: Sequence[Path]) -> None:
        """Asks whether files that were counted are labels, as no other labels were found."""
        if paths:
            self._remarks.append(
                f"{len(paths)} of them are called as images are ({min(paths)}). Are they labels? "
                "They would be PNG files in a folder of labels, or where prepare --labels says."
            )

    def outside(self, layout: str, paths: Sequence[Path]) -> None:
        """Says which pictures were counted because a layout does not have them."""
        self._remarks.append(
            f"{len(paths)} images lie outside the layout {layout} ({min(paths)}). "
            "To use all images: prepare --images '{id}'."
        )

    def walk(self, folder: Path) -> list[Path]:
        """Lists all files below a folder but hidden ones and runs' own, which are counted."""
        return list(walk(folder, self.hidden, self.unreadable, self.made))

    def unlisted(self, count: int) -> None:
        """Counts images that no list of a split names."""
        self._kinds["images in no list"] += count

    def lines(self) -> list[str]:
        """Says what was counted."""
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(self._kinds.items()))
        total = self._kinds.total()
        what = [f"{total} files passed over: {told}."] if total else []
        if self._kinds.keys() & HEIC_SUFFIXES:
            what.append("HEIC files are read with an extra: pip install 'usseg-ray[heic]'.")
        return [*what, *self._remarks]
