"""What follows from the data before the first trial: schedules, and settings in relative terms.

`plan` asks for it once; a run keeps the answer in its request, and reads it again when it is
resumed. Only training images are looked at, and no label: the features come from `Reader.few`,
which has none.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from usseg_ray import methods
from usseg_ray.core.calibration import (
    FEWEST_IMAGES,
    Calibration,
    Choice,
    Effort,
    Facts,
    Statistics,
)
from usseg_ray.core.config import Config, MethodConfig, flatten, with_values
from usseg_ray.core.errors import UserError
from usseg_ray.core.records import DamagedError, read_json, write_json
from usseg_ray.core.types import Needs
from usseg_ray.core.views import Frame
from usseg_ray.data.manifest import Manifest
from usseg_ray.data.reader import Reader
from usseg_ray.features.backbones import Backbone, build_backbone, feature_spec
from usseg_ray.features.calibration import IMAGES, measure_channels, measure_tokens
from usseg_ray.features.featuriser import Featuriser
from usseg_ray.features.normalisation import measurements
from usseg_ray.features.store.recipe import make_recipe
from usseg_ray.features.store.store import default_store
from usseg_ray.ops import context
from usseg_ray.scoring.protocols import find_protocol
from usseg_ray.sweeps.method_plan import MethodPlan

BATCH = 16
EPOCHS = 4
PASSES: dict[Effort, int] = {"quick": 4, "normal": 12}
FEWEST_STEPS: dict[Effort, int] = {"quick": 80, "normal": 240}
_SCHEDULE = ("train.epochs", "train.steps_per_epoch", "train.batch_size")
_CROPS = ("data.crops", "data.crop_ratios", "data.flip", "data.crop_scale", "data.crop_jpeg")
_CONTEXT = "method.context"
_IN_CONTEXT = "places of an image that are alike are described alike"
_FOLDER = ".calibration"
"""Beside the entries of the feature store."""


def calibrate(
    parts: Iterable[MethodPlan], root: str, manifest: Manifest, effort: Effort | None
) -> Calibration:
    """Calibrates the methods of a sweep, and measures what tokens shall be normalised by.

    Args:
        parts: Their settings without calibration, and what was given.
        root: URI of the data.
        manifest: Its manifest.
        effort: How long methods shall learn; unset: methods keep the settings that they have.

    Raises:
        UserError: The backbone cannot be built, or fits neither data nor sizes.
    """
    parts = list(parts)
    tokens = _normalisation(parts[0].config, root, manifest)
    parts = [_normalised(part, tokens) for part in parts]
    config = parts[0].config
    digest = data_digest(manifest, config.data.train_split)
    if effort is None:
        return Calibration(data=digest, tokens=tokens)
    rows = manifest.splits[config.data.train_split].rows
    measured, note = None, ""
    if any(methods.get(part.method).stages for part in parts):
        measured, note = _statistics(config, root, manifest, rows)
    choices = {part.method: _choices(part, rows, effort, measured) for part in parts}
    return Calibration(
        data=digest,
        effort=effort,
        statistics=measured,
        note=note,
        choices={method: found for method, found in choices.items() if found},
        tokens=tokens,
    )


def with_calibration(part: MethodPlan, calibration: Calibration) -> MethodPlan:
    """Gives a method its calibrated settings; a shipped space draws around them.

    Its second trial has the published values of what else would be drawn around the calibrated
    ones, with the calibrated schedule: the published one is of far more images.
    """
    part = _normalised(part, calibration.tokens)
    found = calibration.choices.get(part.method, ())
    config = with_values(part.config, {one.key: one.value for one in found})
    if not part.space.is_shipped:
        return replace(part, config=config)
    space = part.space.around({one.key: one.ends for one in found})
    published = {one.key: one.paper for one in found if one.key in space.space and one.is_change}
    count, second = len(part.samples), [published] if published else []
    drawn = space.sample(max(1, count - len(second)), config.seed)
    samples = tuple([drawn[0], *second, *drawn[1:]][:count])
    return replace(part, config=config, space=space, samples=samples)


def described(calibration: Calibration) -> list[str]:
    """Says to the user what was calibrated, and from what."""
    chosen = [one for found in calibration.choices.values() for one in found]
    count = sum(one.is_change for one in chosen)
    said = [
        f"{count} settings of {', '.join(calibration.choices)} follow from the data (effort "
        f"{calibration.effort}); --calibrate off takes the published ones."
    ]
    if calibration.note:
        said.append(f"{calibration.note[0].upper()}{calibration.note[1:]}.")
    if calibration.statistics is not None:
        found = calibration.statistics
        said.append(
            f"Measured on {found.images} training images, without labels: half of the pairs within "
            f"an image have a cosine above {found.within.above(0.5):.2f}, with a similar image "
            f"{found.similar.above(0.5):.2f}, with another {found.random.above(0.5):.2f}; "
            f"effective rank {found.effective_rank:.0f}, place explains "
            f"{found.position_share:.0%} of the variance."
        )
    said = said if count else []
    if calibration.tokens:
        done = "standardised" if len(calibration.tokens) > 1 else "centred"
        said.append(f"Tokens are {done} for all methods, {calibration.tokens[0].rule}.")
    return said


def check_unchanged(calibration: Calibration, manifest: Manifest, split: str) -> None:
    """Checks that a kept calibration is of the data that are there.

    Raises:
        UserError: The training images have changed since.
    """
    if calibration.data != data_digest(manifest, split):
        raise UserError(
            f"the images of {manifest.name}/{split} have changed since this run was calibrated: "
            "start a new run, its trials would not compare with these."
        )


def data_digest(manifest: Manifest, split: str) -> str:
    """Hashes a split's shards."""
    text = " ".join(shard.sha256 for shard in manifest.shards_of(split))
    return hashlib.sha256(text.encode()).hexdigest()


def _normalised(part: MethodPlan, tokens: tuple[Choice, ...]) -> MethodPlan:
    return replace(part, config=with_values(part.config, {one.key: one.value for one in tokens}))


def _normalisation(
    config: Config[MethodConfig], root: str, manifest: Manifest
) -> tuple[Choice, ...]:
    """Measures what tokens shall be normalised by, where that is asked for and not given."""
    asked = config.backbone
    wanted = measurements(asked)
    if None not in wanted.values():
        return ()
    raw = asked.model_copy(update={"normalise": "raw", "context": None})
    tokens = _tokens(config, build_backbone(raw), root, manifest)
    rule = f"measured on {len(tokens)} training images, without labels"
    found = zip(wanted, measure_channels(tokens), strict=False)
    return tuple(Choice(key=f"backbone.{key}", value=list(v), rule=rule) for key, v in found)


def _choices(
    part: MethodPlan, rows: int, effort: Effort, measured: Statistics | None
) -> tuple[Choice, ...]:
    """Lists what is calibrated of a method: its schedule, and what follows from that and data."""
    method, before = methods.get(part.method), flatten(part.config)
    if not method.stages:
        return ()
    found = []
    if effort != "full":
        found += _left(_schedule(part.config, rows, effort), part, _SCHEDULE)
        if method.needs(part.config.method).pair is None:
            found += _left(_crops(part.config), part, _CROPS)
    if method.needs(part.config.method).features and _CONTEXT not in part.given:
        found.append(Choice(key=_CONTEXT, value=context.USUAL, rule=_IN_CONTEXT))
    config = with_values(part.config, {one.key: one.value for one in found})
    spec = feature_spec(config.backbone, config.data)
    facts = Facts(
        images=rows,
        steps=_steps(config, rows),
        batch_size=config.train.batch_size,
        grid=spec.grid,
        statistics=measured,
        has_attention=spec.has_attention,
    )
    found += [one for one in method.calibrated(facts) if one.key not in part.given]
    return tuple(one.model_copy(update={"paper": before.get(one.key)}) for one in found)


def _left(choices: list[Choice], part: MethodPlan, whole: tuple[str, ...]) -> list[Choice]:
    """Leaves choices that belong together to the user, where one of them was given."""
    return [] if any(key in part.given for key in whole) else choices


def _steps(config: Config[MethodConfig], rows: int) -> int:
    train = config.train
    return train.epochs * (train.steps_per_epoch or max(1, rows // train.batch_size))


def _schedule(config: Config[MethodConfig], rows: int, effort: Effort) -> list[Choice]:
    """Makes a few passes of the published schedule, and not more steps than that has."""
    steps = max(FEWEST_STEPS[effort], PASSES[effort] * rows // BATCH)
    steps = max(EPOCHS, min(steps, _steps(config, rows)))
    each = math.ceil(steps / EPOCHS)
    rule = (
        f"{each * EPOCHS} steps of {BATCH}: {PASSES[effort]} passes over {rows} images, at least "
        f"{FEWEST_STEPS[effort]} steps, at most the published"
    )
    found = {
        "train.epochs": EPOCHS,
        "train.steps_per_epoch": each,
        "train.batch_size": BATCH,
        "train.eval_every": EPOCHS // 2,
    }
    return [Choice(key=key, value=value, rule=rule) for key, value in found.items()]


def _crops(config: Config[MethodConfig]) -> list[Choice]:
    """Takes fixed crops, whose features can be stored, at the scale at which scores are made."""
    ratio = config.data.train_size / config.data.eval_size
    rule = "fixed crops at the scale of scoring: their features are computed once"
    found = {"data.crops": "centre", "data.flip": False}
    if ratio < 1:
        found |= {"data.crops": "five", "data.crop_ratios": [round(ratio, 4)]}
    return [Choice(key=key, value=value, rule=rule) for key, value in found.items()]


def _statistics(
    config: Config[MethodConfig], root: str, manifest: Manifest, rows: int
) -> tuple[Statistics | None, str]:
    """Measures the features of a few training images, or finds what was measured before."""
    if rows < FEWEST_IMAGES:
        return None, (
            f"{rows} training images, calibrated from {FEWEST_IMAGES} on: thresholds are the "
            "published ones"
        )
    protocol, split = find_protocol(config.protocol), config.data.train_split
    backbone = build_backbone(config.backbone)
    frame = Frame(config.data.eval_size, "centre", protocol.filter)
    key = make_recipe(config.backbone, backbone, manifest, split, frame=frame).key
    kept = default_store().folder.root / _FOLDER / f"{key}.json"
    if found := _kept(kept):
        return found, ""
    found = measure_tokens(_tokens(config, backbone, root, manifest))
    write_json(kept, found.model_dump(mode="json"))
    return found, ""


def _tokens(
    config: Config[MethodConfig], backbone: Backbone, root: str, manifest: Manifest
) -> Tensor:
    """Computes the tokens (B, D, h, w) of a few training images, framed as for clustering."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arithmetic = config.resources.arithmetic(device.type)
    featurise = Featuriser(backbone, Needs(), device, autocast=arithmetic == "bfloat16")
    frame = Frame(config.data.eval_size, "centre", find_protocol(config.protocol).filter)
    reader = Reader(root, manifest, config.data, frame=frame)
    batches = reader.few(config.data.train_split, IMAGES, config.train.eval_batch_size)
    return torch.cat([featurise(images).features.tokens for images in batches]).cpu()


def _kept(path: Path) -> Statistics | None:
    try:
        return read_json(path, Statistics, "It is measured again.")
    except (FileNotFoundError, DamagedError):
        return None
