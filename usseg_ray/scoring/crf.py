"""Which CRF sharpens a prediction: the exact one on a GPU, the lattice's approximation on a CPU.

Both have the parameters that the field publishes with (`mean_field`). The lattice one is the usual
code, `pydensecrf`, in processes of its own: the published numbers went through it. It blurs on a
permutohedral lattice and so only approximates the kernels that `mean_field` computes exactly; on a
CPU it is the faster one. A pool forked from a process with torch's threads can hang, and a spawned
one imports the parent's main module; so these are plain scripts at the other end of two pipes.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from usseg_ray.core.errors import UserError
from usseg_ray.core.machine import usable_cpus
from usseg_ray.scoring.mean_field import CRFParameters, mean_field
from usseg_ray.scoring.prediction import CRF

_WORKER = Path(__file__).with_name("lattice_worker.py")


class LatticeCRF:
    """A pool of `pydensecrf` processes; they run between `with` and its end.

    They end with this process too, even if it is killed: the end of their input is theirs.

    Args:
        crf: The pairwise terms.
        processes: How many images are refined at once; the usable CPUs if `None`.

    Raises:
        UserError: `pydensecrf` is not installed.
    """

    def __init__(self, crf: CRFParameters = CRFParameters(), processes: int | None = None) -> None:  # noqa: B008
        if find_spec("pydensecrf") is None:
            raise UserError(
                'The lattice CRF needs a package that is missing: pip install "usseg-ray[crf]".'
            )
        self._crf = json.dumps(asdict(crf))
        self._size = processes or usable_cpus()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def __enter__(self) -> Self:
        """Starts the processes."""
        self._idle = SimpleQueue()
        for _ in range(self._size):
            # -P: modules beside the script must not shadow installed ones.
            process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER), self._crf],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            self._processes.append(process)
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(self._size, "lattice-crf")
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the processes, without waiting for what they compute."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            # Closes the pipes; what could not be sent any more is of no interest.
            with suppress(BrokenPipeError):
                process.communicate()
        self._processes.clear()

    def __call__(
        self,
        log_probs: Float32[np.ndarray, "B K H W"] | Tensor,
        pixels: UInt8[np.ndarray, "B 3 H W"] | Tensor,
    ) -> Float32[np.ndarray, "B K H W"]:
        """Computes the marginals of every image.

        Args:
            log_probs: (B, K, H, W) float32 log-probabilities of the classes, an array or a tensor
                on the CPU.
            pixels: (B, 3, H, W) uint8, RGB.

        Returns:
            (B, K, H, W) float32 probabilities.

        Raises:
            RuntimeError: The pool is not running, or one of its processes died.
        """
        if not self._processes:
            raise RuntimeError("LatticeCRF is called outside of its with block")
        unaries = np.ascontiguousarray(log_probs, np.float32)
        colours = np.ascontiguousarray(np.moveaxis(np.asarray(pixels, np.uint8), 1, -1))
        return np.stack(list(self._threads.map(self._refine, unaries, colours)))

    def _refine(
        self, log_probs: Float32[np.ndarray, "K H W"], pixels: UInt8[np.ndarray, "H W 3"]
    ) -> Float32[np.ndarray, "K H W"]:
        process = self._idle.get()
        try:
            return _exchange(process, log_probs, pixels)
        finally:
            self._idle.put(process)


def _exchange(
    process: subprocess.Popen[bytes],
    log_probs: Float32[np.ndarray, "K H W"],
    pixels: UInt8[np.ndarray, "H W 3"],
) -> Float32[np.ndarray, "K H W"]:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for part in (np.array(log_probs.shape, np.int64), log_probs, pixels):
            process.stdin.write(part.data)
        process.stdin.flush()
        answer = process.stdout.read(log_probs.nbytes)
    except BrokenPipeError:
        answer = b""
    if len(answer) < log_probs.nbytes:
        raise RuntimeError(f"a process of LatticeCRF died (exit code {process.wait()})")
    return np.frombuffer(answer, np.float32).reshape(log_probs.shape)


def crf_kind(device: str) -> str:
    """Says which CRF there is on a device: `exact` or `lattice`."""
    return "lattice" if device == "cpu" and find_spec("pydensecrf") else "exact"


@contextmanager
def open_crf(device: str) -> Iterator[CRF]:
    """Gives the CRF of a device, and ends its processes after the block.

    Args:
        device: `cpu` or `cuda`.
    """
    if crf_kind(device) == "exact":
        yield mean_field
        return
    with LatticeCRF() as lattice:
        yield lambda log_probs, pixels: torch.from_numpy(lattice(log_probs, pixels))
