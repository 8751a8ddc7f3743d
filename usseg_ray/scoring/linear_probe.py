"""The linear probe: a supervised 1x1 classifier on detached codes, for evaluation alone.

It uses labels, so its score is no unsupervised one: it says how much of the classes is linearly
there to be found. It is trained when a method has finished, and nothing ever flows back.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from usseg_ray.core.distributed import rank, shared_generator, world_size
from usseg_ray.core.types import Batch, LabelledImages
from usseg_ray.ops.adam import AdamW
from usseg_ray.scoring.evaluation import GroundTruth
from usseg_ray.scoring.prediction import Featurise

Encode = Callable[[Batch], Float[Tensor, "B C h w"]]

EPOCHS = 20
LEAST_STEPS = 32  # an epoch: a small set needs as many to converge as a large one
TOKENS_PER_STEP = 4096


class LinearProbe:
    """A trained classifier of codes, as a `prediction.Scorer` whose outputs are the classes.

    Args:
        encode: Makes the codes.
        classifier: Takes (n, C) standardised codes to (n, classes) logits.
        mean: (C,) of the training codes.
        std: (C,) of the training codes.
    """

    sharpness = 1.0

    def __init__(
        self, encode: Encode, classifier: torch.nn.Linear, mean: Tensor, std: Tensor
    ) -> None:
        self._encode, self._classifier, self._mean, self._std = encode, classifier, mean, std
        self.num_outputs = classifier.out_features

    def predict(self, batch: Batch) -> Float[Tensor, "B K h w"]:
        """Returns the class logits of every token."""
        return self._classify(self._encode(batch))

    def predict_mirrored(self, batch: Batch, mirrored: Batch) -> Float[Tensor, "B K h w"]:
        """Classifies the mean of the codes of an image and of its mirror image."""
        return self._classify((self._encode(batch) + self._encode(mirrored).flip(-1)) / 2)

    @torch.no_grad()
    def _classify(self, codes: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K h w"]:
        rows = (codes.permute(0, 2, 3, 1) - self._mean) / self._std
        logits: Tensor = self._classifier(rows)
        return logits.permute(0, 3, 1, 2)


def fit_linear_probe(
    encode: Encode,
    featurise: Featurise,
    batches: Iterable[LabelledImages],
    truth: GroundTruth,
    *,
    seed: int,
    epochs: int = EPOCHS,
) -> LinearProbe:
    """Trains a classifier on codes of labelled training images.

    The loss is the cross-entropy of every labelled pixel against its token's class scores, written
    per token as that of the class shares among its pixels.

    Args:
        encode: Batches to (B, C, h, w) codes.
        featurise: Images to batches.
        batches: Labelled training images.
        truth: Classes and the label that does not count.
        seed: Keys the order of the tokens.
        epochs: Walks over the training tokens.

    Returns:
        The probe.

    Raises:
        RuntimeError: Several workers; a probe is trained by one.
    """
    if world_size() > 1:
        raise RuntimeError(f"a linear probe is trained in one process, not in rank {rank()}")
    codes, shares = _tokens(encode, featurise, batches, truth)
    mean, std = codes.mean(0), codes.std(0).clamp_min(1e-6)
    codes.sub_(mean).div_(std)
    classifier = torch.nn.Linear(codes.shape[1], len(truth.classes)).to(codes.device)
    torch.nn.init.zeros_(classifier.weight)
    torch.nn.init.zeros_(classifier.bias)
    optimiser = AdamW(classifier.parameters(), lr=1e-2, weight_decay=1e-4)
    generator = shared_generator(seed, "linear")
    portion = min(TOKENS_PER_STEP, -(-len(codes) // LEAST_STEPS))
    for _ in range(epochs):
        for chosen in torch.randperm(len(codes), generator=generator).split(portion):
            rows = chosen.to(codes.device)
            logits, weights = classifier(codes.index_select(0, rows)), shares.index_select(0, rows)
            loss = share_loss(logits, weights)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return LinearProbe(encode, classifier, mean, std)


def share_loss(logits: Float[Tensor, "n K"], shares: Float[Tensor, "n K"]) -> Float[Tensor, ""]:
    """Computes the mean cross-entropy of all labelled pixels.

    Args:
        logits: (n, K) class scores.
        shares: (n, K) how many labelled pixels of each class a row stands for, up to one factor; a
            row of zeros does not count.

    Returns:
        Nats. With one pixel a row it is the official loss of STEGO and HP.
    """
    return -(shares * logits.log_softmax(1)).sum() / shares.sum()


@torch.no_grad()
def _tokens(
    encode: Encode, featurise: Featurise, batches: Iterable[LabelledImages], truth: GroundTruth
) -> tuple[Float[Tensor, "n C"], Float[Tensor, "n K"]]:
    """Collects codes and, for each, how many of its pixels have which class."""
    num_classes = len(truth.classes)
    codes, shares = [], []
    for labelled in batches:
        grid = encode(featurise(labelled.images))
        labels = labelled.labels.to(grid.device)
        # Floats: a CPU compares many at once where what comes out is no bool.
        classes = labels.where(labels != truth.ignore_index, -1).float()
        size = (grid.shape[-2], grid.shape[-1])
        pooled = [
            F.adaptive_avg_pool2d(torch.eq(classes, one, out=torch.empty_like(classes)), size)
            for one in range(num_classes)
        ]
        codes.append(grid.permute(0, 2, 3, 1).flatten(0, 2))
        shares.append(torch.stack(pooled, -1).flatten(0, 2))
    tokens, weights = torch.cat(codes), torch.cat(shares)
    used = weights.sum(1) > 0
    return tokens[used], weights[used]
