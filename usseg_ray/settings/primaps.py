"""What PriMaPs-EM can be set to."""

from pydantic import Field

from usseg_ray.core.config import MethodConfig, Origin


class PriMaPsConfig(MethodConfig):
    """Settings of PriMaPs-EM; defaults are the official ones."""

    psi: float = Field(
        0.4,
        gt=0,
        le=1,
        description="Cosine to the token that a mask grows from, from which on tokens join it; "
        "official code: 0.4.",
    )
    centre: bool = Field(
        False,
        description="That cosine is of what parts tokens from the mean of their image; official "
        "code: no.",
    )
    explained: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Share of an image's tokens in masks, from which on no more are looked for; "
        "official code: 0.95.",
    )
    scale: float = Field(
        30.0,
        gt=0,
        description="Mean length of an image's codes as the classifier gets them; official code: "
        "as the backbone has it.",
    )
    focus: float = Field(
        2.0,
        ge=0,
        description="A label weighs one minus the mean probability of it, to this power; official "
        "code: 2.",
    )
    decay: float = Field(
        0.98, ge=0, le=1, description="Of the teacher at its renewal; official code: 0.98."
    )
    renewal_steps: int = Field(
        10,
        ge=1,
        description="Steps between two renewals of the teacher; official code: 10.",
    )
    lr: float = Field(5e-3, gt=0, description="Adam's rate; official code: 5e-3.")
    init_from: str | None = Field(
        None,
        description="A trained STEGO, HP, CAUSE, EQUSS or PPAP with `block: new` on the same "
        "backbone and frame, as usseg_ray.load takes it: its codes are classified in place of "
        "tokens.",
    )
    origin: Origin | None = Field(
        None, description="What `init_from` was found to be, before the first trial."
    )
