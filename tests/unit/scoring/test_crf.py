"""The pool of the usual code: the same as calling it directly, and gone when it should be."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from usseg_ray.core.errors import UserError
from usseg_ray.core.machine import usable_cpus
from usseg_ray.scoring import crf
from usseg_ray.scoring.crf import LatticeCRF
from usseg_ray.scoring.mean_field import CRFParameters

DenseCRF2D = pytest.importorskip("pydensecrf.densecrf").DenseCRF2D
HOLD = """
import sys, time
from usseg_ray.scoring.crf import LatticeCRF
with LatticeCRF(processes=2) as pool:
    print(*(process.pid for process in pool._processes), flush=True)
    time.sleep(60)
"""


def given(images: int = 3, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(images, classes, 20, 31)).astype(np.float32)
    log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    return log_probs, rng.integers(0, 40, (images, 3, 20, 31), np.uint8)


def direct(log_probs: np.ndarray, pixels: np.ndarray, crf: CRFParameters) -> np.ndarray:
    classes, height, width = log_probs.shape
    field: Any = DenseCRF2D(width, height, classes)
    field.setUnaryEnergy(np.ascontiguousarray(-log_probs.reshape(classes, -1)))
    field.addPairwiseGaussian(crf.gaussian_sxy, crf.gaussian_compat)
    colours = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    field.addPairwiseBilateral(crf.bilateral_sxy, crf.bilateral_srgb, colours, crf.bilateral_compat)
    return np.array(field.inference(crf.steps)).reshape(log_probs.shape)


def gone(pids: list[int], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("crf", [CRFParameters(), CRFParameters(2.0, 1.0, 20.0, 9.0, 7.0, 3)])
def test_the_pool_does_what_a_direct_call_does(crf: CRFParameters) -> None:
    log_probs, pixels = given()
    with LatticeCRF(crf, processes=2) as pool:
        found = pool(log_probs, pixels)
        again = pool(torch.from_numpy(log_probs), torch.from_numpy(pixels))
    expected = [direct(*image, crf) for image in zip(log_probs, pixels, strict=True)]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.stack(expected))
    np.testing.assert_array_equal(again, found)
    assert np.abs(found - np.exp(log_probs)).max() > 0.1


def test_images_may_change_their_size_between_calls() -> None:
    log_probs, pixels = given()
    with LatticeCRF(processes=1) as pool:
        whole = pool(log_probs, pixels)
        part = pool(log_probs[:1, :2, :8], pixels[:1, :, :8])
        np.testing.assert_array_equal(pool(log_probs, pixels), whole)
    assert part.shape == (1, 2, 8, 31)


def test_the_pool_has_a_process_for_each_cpu_and_closes() -> None:
    with LatticeCRF() as pool:
        pids = [process.pid for process in pool._processes]
        assert len(pids) == usable_cpus()
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert gone(pids, 0)
    with pytest.raises(RuntimeError, match="with block"):
        pool(*given())
    with pool:
        assert pool(*given(1)).shape == (1, 4, 20, 31)


def test_a_process_that_dies_is_an_error() -> None:
    with LatticeCRF(processes=1) as pool:
        pool._processes[0].kill()
        with pytest.raises(RuntimeError, match="exit code -9"):
            pool(*given())


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_parent(sent: signal.Signals) -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        os.kill(parent.pid, sent)
        parent.wait(timeout=20)
    assert gone(pids)


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(crf, "find_spec", lambda name: None if name == "pydensecrf" else find(name))
    with pytest.raises(UserError, match=r'pip install "usseg-ray\[crf\]"'):
        LatticeCRF()


def test_a_process_loads_no_torch() -> None:
    program = f"import runpy, sys; runpy.run_path({str(crf._WORKER)!r}); "
    program += "print({'torch', 'scipy', 'pydantic', 'usseg_ray'} & set(sys.modules))"
    found = subprocess.check_output([sys.executable, "-P", "-c", program], text=True)
    assert found.strip() == "set()"
