"""What PiCIE can be set to, and the network that it trains."""

from typing import Literal

from pydantic import Field

from usseg_ray.core.config import JitterConfig, MethodConfig, Settings

ClassWeights = Literal["frequency", "balanced", "none"]


class NetworkConfig(Settings):
    """Which network is trained, and what it starts from."""

    name: str = Field(
        "resnet18.tv_in1k",
        description="A timm CNN with stages of strides 4, 8, 16 and 32; official: torchvision's.",
    )
    pretrained: bool = Field(True, description="Start from timm's weights, else from a draw.")
    weights: str | None = Field(
        None, description="A safetensors file of the timm model to start from instead."
    )
    dim: int = Field(128, ge=1, description="Channels of a code; official code: 128.")


class PiCIEConfig(MethodConfig):
    """Settings of PiCIE; defaults are those of the official COCO-Stuff script."""

    variant: Literal["picie", "mdc", "over_clustering"] = Field(
        "picie",
        description="`mdc`: the paper's baseline, modified DeepCluster on one view; "
        "`over_clustering`: PiCIE+H, a second and finer clustering helps to train.",
    )
    network: NetworkConfig = Field(NetworkConfig(), description="The network that is trained.")
    lr: float = Field(1e-4, gt=0, description="Adam's rate; official: COCO 1e-4, Cityscapes 1e-3.")
    cluster_batch: int = Field(
        256, ge=1, description="Images per k-means update and batch norm; official: 256."
    )
    init_batches: int = Field(
        20,
        ge=1,
        description="Batches that the first centroids are found on, kept in memory; official: 20.",
    )
    kmeans_iterations: int = Field(20, ge=1, description="On those batches; official: 20.")
    class_weights: ClassWeights = Field(
        "frequency",
        description="Of a cluster in the cross-entropy: its share of cells (official code and "
        "logs), one over it, or none (official --no_balance).",
    )
    mse: bool = Field(
        False, description="Also pull the views' codes together; official --mse, off in scripts."
    )
    over_clusters: int = Field(
        100, ge=2, description="Clusters of the second clustering of `over_clustering`; paper: 100."
    )
    over_weight: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Its share of the loss; ln K / (ln K + ln over_clusters) if unset, which "
        "levels the two cross-entropies (from memory of the paper).",
    )
    mdc_classifier: Literal["learnt", "centroids"] = Field(
        "learnt",
        description="Of `mdc`: a linear classifier that starts anew every epoch, or the centroids "
        "(official --nonparametric).",
    )
    jitter: JitterConfig = Field(
        JitterConfig(probability=0.8, grey=0.0),
        description="Colours of the views; the official code never applies its grey.",
    )
