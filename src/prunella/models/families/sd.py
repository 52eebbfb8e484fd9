"""Stable Diffusion 1.x and 2.x: one text encoder, attention in all stages but the deepest."""

from prunella.models.families.base import CROSS_DOWN, PLAIN_DOWN, Family

SD = Family(
    title="Stable Diffusion 1.x or 2.x",
    pipeline_class="StableDiffusionPipeline",
    text_encoders=("text_encoder",),
    addition_embed_type=None,
    down_block_types=(CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, PLAIN_DOWN),
    transformer_layers=(1, 1, 1, 0),
    mid_layers=1,
)
