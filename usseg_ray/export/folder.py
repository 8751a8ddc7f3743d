"""A model's folder that needs no other place: the backbone's weights in it, of today's format."""

import tempfile
from pathlib import Path

import safetensors.torch
from torch import nn

from usseg_ray.core.files import write_whole
from usseg_ray.features.backbones import TimmFeatures
from usseg_ray.models.card import CARD_FILE, write_card
from usseg_ray.models.folder import BACKBONE_FILE, BACKBONE_WEIGHTS, read_model, save_model
from usseg_ray.models.segmenter import Segmenter


def write_folder(segmenter: Segmenter, source: Path, folder: Path) -> None:
    """Writes a model as safetensors and `model.yaml`, with all that it reads.

    Args:
        segmenter: The model, opened.
        source: Its folder.
        folder: Where the model goes.
    """
    about, backbone = segmenter.description, segmenter.model.featurise.backbone
    with tempfile.TemporaryDirectory(prefix="usseg-") as place:
        weights = None
        if about.backbone.file is not None:
            weights = source / about.backbone.file
        elif isinstance(backbone, TimmFeatures):
            # Elsewhere timm's cache, or the network, may lack what has only a name.
            weights = Path(place) / BACKBONE_FILE
            network: nn.Module = backbone.model
            state = network.state_dict()
            held = {name: tensor.clone().contiguous() for name, tensor in state.items()}
            write_whole(weights, safetensors.torch.save(held))
            note = about.backbone.model_copy(update={"file": BACKBONE_FILE})
            config = about.config | {BACKBONE_WEIGHTS: BACKBONE_FILE}
            about = about.model_copy(update={"backbone": note, "config": config})
        save_model(folder, about, segmenter.model.method.state_dict(), weights)
    card = source / CARD_FILE
    if card.is_file():
        # One that a person wrote stays theirs, another is written again.
        write_whole(folder / CARD_FILE, card.read_bytes())
        write_card(read_model(folder)[0], folder)
