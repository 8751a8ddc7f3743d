"""Peak memory of a command with all processes that it started."""

import threading
from types import TracebackType

import psutil

INTERVAL_S = 3.0


class PeakMemory:
    """Samples the sum of proportional set sizes (pages shared by n processes count 1/n each).

    Attributes:
        peak_bytes: The largest sum seen inside the `with` block.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        ended = False
        while not ended:
            self.peak_bytes = max(self.peak_bytes, tree_bytes(psutil.Process()))
            ended = self._ended.wait(INTERVAL_S)


def tree_bytes(root: psutil.Process) -> int:
    """Sums the memory of a process and its descendants.

    Args:
        root: The process.

    Returns:
        Bytes; proportional set size where the system tells it, else resident size.
    """
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            info = process.memory_full_info()
        except psutil.Error:
            continue
        total += getattr(info, "pss", info.rss)
    return total
