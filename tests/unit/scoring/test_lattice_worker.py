"""The other end of the pool's pipes: one answer a request, in order, until there is no more."""

import io
from dataclasses import asdict

import numpy as np
import pytest

from usseg_ray.scoring.mean_field import CRFParameters

pytest.importorskip("pydensecrf", reason="pydensecrf2 was not built")

CRF = asdict(CRFParameters())


def image(classes: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height)
    scores = rng.normal(size=(classes, height, width)).astype(np.float32)
    log_probs = scores - np.log(np.exp(scores).sum(0, keepdims=True))
    return log_probs, rng.integers(0, 40, (height, width, 3), np.uint8)


def request(log_probs: np.ndarray, pixels: np.ndarray) -> bytes:
    return np.array(log_probs.shape, np.int64).tobytes() + log_probs.tobytes() + pixels.tobytes()


def test_marginals_are_probabilities_that_colours_have_moved() -> None:
    from usseg_ray.scoring.lattice_worker import refine

    log_probs, pixels = image(3, 12, 17)
    found = refine(log_probs, pixels, CRF)
    assert found.dtype == np.float32
    assert found.shape == log_probs.shape
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-4)
    assert np.abs(found - np.exp(log_probs)).max() > 0.1


def test_without_steps_only_the_unaries_remain() -> None:
    from usseg_ray.scoring.lattice_worker import refine

    log_probs, pixels = image(3, 12, 17)
    found = refine(log_probs, pixels, CRF | {"steps": 0})
    np.testing.assert_allclose(found, np.exp(log_probs), rtol=1e-4)


def test_images_of_any_shape_are_answered_in_order() -> None:
    from usseg_ray.scoring.lattice_worker import answer_requests, refine

    given = [image(3, 12, 17), image(5, 9, 8)]
    answers = io.BytesIO()
    answer_requests(io.BytesIO(b"".join(request(*one) for one in given)), answers, CRF)
    assert answers.getvalue() == b"".join(refine(*one, CRF).tobytes() for one in given)
