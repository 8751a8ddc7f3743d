"""timm and the hub's client, imported when something of them is first asked for.

Beside the path: they bring torchvision and torch's compiler with them, seconds and 0.1 GB of each
process that runs on `textons` or on stored features.
"""

import importlib
from typing import Any


class _LazyModule:
    """Stands for a module until something of it is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 (whatever the module has)
        return getattr(importlib.import_module(self._name), name)


timm: Any = _LazyModule("timm")
huggingface_hub: Any = _LazyModule("huggingface_hub")
