"""What ACSeg can be set to, and its generator of concepts."""

from typing import Literal

from pydantic import Field

from usseg_ray.core.config import Attention, MethodConfig

Norm = Literal["post", "pre"]


Activation = Literal["relu", "gelu"]


class GeneratorConfig(MethodConfig):
    """Settings of the generator; "assumed" marks what the known sources leave open."""

    num_prototypes: int = Field(
        5, ge=1, le=256, description="Most concepts of an image; 5 is the paper's best."
    )
    num_blocks: int = Field(6, ge=1, description="Update steps of the generator; paper: 6.")
    num_heads: int = Field(
        6, ge=1, description="Attention heads, a divisor of the token dim; re-implementations: 6."
    )
    ffn_ratio: int = Field(4, ge=1, description="Feed-forward width over token dim; assumed.")
    norm: Norm = Field(
        "post", description="Layer norm after or before a sublayer; assumed as in Vaswani 2017."
    )
    activation: Activation = Field("relu", description="Of the FFN; assumed.")
    prototype_init: Literal["normal", "orthogonal"] = Field(
        "normal", description="Standard normal, or orthogonal rows of length sqrt(dim); assumed."
    )


class ACSegConfig(GeneratorConfig):
    """Settings of ACSeg; "assumed" marks what the known sources leave open."""

    centre: bool = Field(
        False,
        description="Take each image's mean token off before concepts and graph (not in ACSeg; for "
        "features whose cosines are all high).",
    )
    whiten: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Divide each direction of tokens by this power of its deviation over the "
        "training images, after their mean is off (not in ACSeg; for features whose channels "
        "repeat each other); 0: tokens as they are.",
    )
    settle: int = Field(
        0,
        ge=0,
        description="Times that each concept moves to the mean of its tokens once it was proposed, "
        "for regions and prediction (not in ACSeg; for generators that learnt for few steps).",
    )
    gamma: float = Field(
        1.0, gt=0, description="Resolution of the modularity's null model; 1 is the paper's loss."
    )
    keep_loops: bool = Field(
        True, description="Whether a token is its own neighbour; the paper does not remove it."
    )
    tanh_scale: float | None = Field(
        None, gt=0, description="Squash pair intensities by tanh(x / scale); CAUSE: 0.1."
    )
    lr: float = Field(1e-4, gt=0, description="AdamW's rate; one re-implementation, else assumed.")
    weight_decay: float = Field(
        0.01, ge=0, description="Not on norms, biases and prototypes; re-implementations: 0.01."
    )
    warmup_steps: int = Field(100, ge=0, description="Linear warm-up, then constant; assumed.")
    clip_norm: float = Field(1.0, gt=0, description="Gradient norm per parameter group; assumed.")
    background: Literal["none", "split"] = Field(
        "none",
        description="`split`: regions of low attention become cluster 0 (paper, for VOC); `none` "
        "for data without a background class (paper, COCO-Stuff).",
    )
    background_score: Attention = Field(
        "cls", description="Attention of the CLS token, or the least head's over all queries."
    )
    background_pool: Literal["sum", "mean"] = Field(
        "sum", description="Score of a region; the paper sums, which favours large regions."
    )
    region_vector: Literal["mean", "cls"] = Field(
        "mean",
        description="Describe a region by its mean token, or by the backbone's CLS token of the "
        "region's bounding box (one more forward pass a region); the paper's choice is not known.",
    )
    spherical: bool = Field(
        True, description="Cluster directions of regions instead of positions; assumed."
    )
    restarts: int = Field(10, ge=1, description="Starts of k-means, the best stays; assumed.")
    max_regions: int = Field(
        100_000, ge=1, description="Regions to cluster; of more, an even sample is taken."
    )
