"""A model as one ONNX graph: square tiles of pixels in, the probability of every cluster out.

What brings images to tiles, and tiles together again, stays outside: it is a loop over sizes that
a graph does not know.
"""

import json
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from usseg_ray.core.errors import UserError
from usseg_ray.core.files import first_line
from usseg_ray.core.types import Images
from usseg_ray.models.description import Description
from usseg_ray.models.segmenter import Segmenter

INPUT, OUTPUT = "images", "scores"

WRITERS = ("onnx", "onnxscript")
"""What writes a graph."""

WAY_ON = "--format safetensors and pyfunc take every model."

_NEVER = -1e4
"""A logit whose probability is 0, also between two pixels."""

_MOST_BYTES = 2**31 - 2**20
"""What a file of ONNX holds, with room for what is not weights."""


class TileGraph(nn.Module):
    """What a graph computes, in torch.

    Args:
        segmenter: The model, on the CPU.

    Attributes:
        side: Side of a tile, pixels: what the model was scored at.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        model = segmenter.model
        # As attributes of their own, so that their tensors are the graph's.
        self.method, self.backbone = model.method, model.featurise.backbone
        self.side = segmenter.description.preprocessing.size
        self._featurise, self._scorer = model.featurise, model.predictor().scorer
        groups = segmenter.names.groups
        self._parts = [np.flatnonzero(groups == cluster).tolist() for cluster in range(len(groups))]

    def forward(self, images: UInt8[Tensor, "B S S 3"]) -> Float[Tensor, "B K S S"]:
        """Finds the probability of every cluster at every pixel.

        Args:
            images: (B, side, side, 3) uint8, RGB.

        Returns:
            (B, K, side, side) float32; sums to 1 over K. What is merged into another cluster has 0,
            and that one the sum.
        """
        batch = self._featurise(Images(("tile",), images.permute(0, 3, 1, 2)))
        scores = self._scorer.sharpness * self._scorer.predict(batch).float()
        if any(len(part) != 1 for part in self._parts):
            scores = self._joined(scores)
        size = (self.side, self.side)
        if tuple(scores.shape[-2:]) != size:
            scores = interpolate(scores, size, mode="bilinear", align_corners=False)
        return _softmax(scores)

    def _joined(self, logits: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K h w"]:
        """Adds up as `Segmenter.join` does; a cluster that was merged into another stays last."""
        nothing = torch.full_like(logits[:, 0], _NEVER)
        rows = [logits[:, part].logsumexp(1) if part else nothing for part in self._parts]
        return torch.stack(rows, 1)


def require(packages: Sequence[str]) -> None:
    """Makes sure that optional packages are there.

    Raises:
        UserError: Some are not; says what installs them.
    """
    missing = ", ".join(package for package in packages if find_spec(package) is None)
    if missing:
        raise UserError(
            f'ONNX needs packages that are missing ({missing}): pip install "usseg-ray[onnx]".'
        )


def traced(graph: TileGraph) -> torch.export.ExportedProgram:
    """Traces a graph for any number of tiles.

    Args:
        graph: In evaluation mode.

    Raises:
        RuntimeError: Something in it depends on what is in the images, or on how many there are.
    """
    tiles = torch.zeros(2, graph.side, graph.side, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # Of torch's own parts about one another.
        warnings.simplefilter("ignore")
        graph(tiles)  # what is computed once a size stands before it is traced
        program = torch.export.export(graph, (tiles,), dynamic_shapes=_shapes(), strict=False)
        # ONNX has no operator for it.
        decomposed: torch.export.ExportedProgram = program.run_decompositions(
            {torch.ops.aten.cdist.default: _distances}
        )
        return decomposed


def to_onnx(segmenter: Segmenter) -> bytes:
    """Writes a model as an ONNX file; what it says of itself is in its metadata.

    Args:
        segmenter: The model, on the CPU.

    Returns:
        The file: input `images`, (N, side, side, 3) uint8 RGB; output `scores`, (N, K, side,
        side) float32, the probability of every cluster; any N.

    Raises:
        UserError: A package is missing, the model is too large, or no graph can be made of it.
    """
    require(WRITERS)
    graph, about = TileGraph(segmenter).eval(), segmenter.description
    tensors = [*graph.parameters(), *graph.buffers()]
    if sum(tensor.nbytes for tensor in tensors) > _MOST_BYTES:
        raise UserError(f"{_called(about)} has more than the 2 GB of a file of ONNX. {WAY_ON}")
    try:
        written = _converted(traced(graph))
    # `OnnxExporterError`, and all that tracing raises, are such.
    except RuntimeError as error:
        raise UserError(
            f"{_called(about)} cannot be one graph ({first_line(error)[:120]}). {WAY_ON}"
        ) from None
    written.model.metadata_props.update(metadata(about))
    content: bytes = written.model_proto.SerializeToString()
    return content


def metadata(about: Description) -> dict[str, str]:
    """Returns what a graph says of itself, each value as JSON.

    Args:
        about: The model.

    Returns:
        `names`, as in a `names.yaml`, a cluster each; `outputs`, what each cluster is in a label
        map; `palette`, RGB of each; `preprocessing`; and `model`.
    """
    names, backbone = about.names, about.backbone
    values = {
        "names": [name.model_dump() for name in names.clusters],
        "outputs": names.final.tolist(),
        "palette": names.palette[: len(names)].tolist(),
        "preprocessing": about.preprocessing.model_dump(mode="json"),
        "model": {
            "method": about.method,
            "num_clusters": about.num_clusters,
            "backbone": backbone.name,
            "licence": backbone.licence,
            "limits": backbone.limits,
            "usseg_ray": about.usseg_ray,
        },
    }
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def _converted(program: torch.export.ExportedProgram) -> Any:  # noqa: ANN401 (an `ONNXProgram`)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=_shapes(),
        )


def _shapes() -> tuple[dict[int, Any]]:
    return ({0: torch.export.Dim("batch", min=1, max=2**16)},)


def _called(about: Description) -> str:
    return f"{about.method} on {about.backbone.name}"


def _softmax(scores: Float[Tensor, "B K S S"]) -> Float[Tensor, "B K S S"]:
    """Is the softmax over K, in parts: onnxruntime is slow at its own but over the last axis."""
    likely = (scores - scores.amax(1, keepdim=True)).exp()
    return likely * (1 / likely.sum(1, keepdim=True))


def _distances(
    points: Float[Tensor, "n d"],
    centroids: Float[Tensor, "k d"],
    p: float = 2.0,  # noqa: ARG001 (as the operator has them)
    compute_mode: int | None = None,  # noqa: ARG001
) -> Float[Tensor, "n k"]:
    return (points[:, None] - centroids).square().sum(2).sqrt()
