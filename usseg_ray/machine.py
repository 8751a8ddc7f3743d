"""This machine's processor: how much of it a process may use, and what decides its rounding."""

import os
import platform
from pathlib import Path

import torch


def usable_cpus() -> int:
    """Counts the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """Names the processor, or its architecture where the system has no name for it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def vector_instructions() -> str:
    """Names the vector instructions that PyTorch's kernels use here, for example `AVX512`.

    Wider ones add numbers in another order, so that training from one seed ends elsewhere;
    `ATEN_CPU_CAPABILITY` chooses narrower ones.
    """
    return str(torch.backends.cpu.get_cpu_capability())
