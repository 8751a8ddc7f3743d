"""What a process of `LatticeCRF` runs: images come in on stdin, marginals leave on stdout.

Off an image's path, and a script rather than a module: it imports numpy and pydensecrf alone, so a
process starts in a moment and holds neither torch nor a thread. It ends when stdin does, which is
also what the end of its parent looks like, however that came.
"""

import json
import signal
import sys
from typing import BinaryIO

import numpy as np
from pydensecrf.densecrf import DenseCRF2D


def refine(log_probs: np.ndarray, pixels: np.ndarray, crf: dict[str, float]) -> np.ndarray:
    """Computes the marginals of one image.

    Args:
        log_probs: (K, H, W) float32.
        pixels: (H, W, 3) uint8, RGB, contiguous and writable.
        crf: Fields of `usseg_ray.scoring.mean_field.CRF`.

    Returns:
        (K, H, W) float32.
    """
    classes, height, width = log_probs.shape
    field = DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(-log_probs.reshape(classes, -1))
    field.addPairwiseGaussian(sxy=crf["gaussian_sxy"], compat=crf["gaussian_compat"])
    field.addPairwiseBilateral(
        sxy=crf["bilateral_sxy"],
        srgb=crf["bilateral_srgb"],
        rgbim=pixels,
        compat=crf["bilateral_compat"],
    )
    return np.array(field.inference(int(crf["steps"])), np.float32).reshape(log_probs.shape)


def answer_requests(requests: BinaryIO, answers: BinaryIO, crf: dict[str, float]) -> None:
    """Answers requests until there are no more.

    Args:
        requests: Each K, H and W as three int64, (K, H, W) float32 and (H, W, 3) uint8.
        answers: (K, H, W) float32 for each.
        crf: Fields of `usseg_ray.scoring.mean_field.CRF`.
    """
    while header := requests.read(24):
        classes, height, width = np.frombuffer(header, np.int64).tolist()
        log_probs = np.frombuffer(requests.read(4 * classes * height * width), np.float32)
        # A copy, since DenseCRF2D asks for pixels that it may write.
        pixels = np.frombuffer(bytearray(requests.read(3 * height * width)), np.uint8)
        found = refine(
            log_probs.reshape(classes, height, width), pixels.reshape(height, width, 3), crf
        )
        answers.write(found.tobytes())
        answers.flush()


if __name__ == "__main__":
    # Ctrl-C reaches the whole group; the parent closes the pipes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answer_requests(sys.stdin.buffer, sys.stdout.buffer, json.loads(sys.argv[1]))
