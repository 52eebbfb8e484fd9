"""Stable Diffusion 1.x and 2.x: one text encoder, attention in all stages but the deepest."""

from prunella.models.families.base import CROSS, PLAIN, Family

SD = Family(
    title="Stable Diffusion 1.x or 2.x",
    pipeline="StableDiffusionPipeline",
    encoders=("text_encoder",),
    embeds=None,
    down=(CROSS, CROSS, CROSS, PLAIN),
    layers=(1, 1, 1, 0),
    mid=1,
)
