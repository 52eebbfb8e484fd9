"""Sections `filter` and `encode`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prunella.params.fields import (
    ConfigSection,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Pixels,
    PositiveInt,
    Precision,
    StorageDtype,
)


class AestheticFilter(ConfigSection):
    """The LAION aesthetic score, from the data's column or from a model."""

    min: float | None = Field(description="Lowest LAION aesthetic score, 1 to 10.")
    model: str | None = Field(description="File of the aesthetic head, if the data have no such column.")
    clip: str | None = Field(description="Folder of the CLIP model of that head (openai/clip-vit-large-patch14).")

    @model_validator(mode="after")
    def _check_model_and_clip(self) -> Self:
        if (self.model is None) != (self.clip is None):
            raise ValueError("model and clip go together: the head, and the folder of the CLIP that it is for")
        return self


ColumnName = Literal["text", "image", "width", "height", "language", "aesthetic", "punsafe", "pwatermark", "similarity"]


class Filter(ConfigSection):
    """The image-caption pairs are used, and where they come from. A criterion that is None is not asked."""

    source: Literal["scenes", "folder", "parquet", "webdataset", "hub", "generated"] = Field(
        description="scenes, folder, parquet, webdataset, hub or generated."
    )
    path: Annotated[str, Field(min_length=1)] = Field(
        description="scenes: a vocabulary. folder: images and metadata.jsonl. Other sources: file or folder. May be "
        "a store: s3://bucket/pairs, gs://... (docs/scale.md)."
    )
    id: str | None = Field(description="hub: owner/dataset. `path` is then ignored.")
    revision: Annotated[str, Field(min_length=1)] = Field(description="hub: branch, tag or commit.")
    split: Annotated[str, Field(min_length=1)] = Field(description="hub: split of the dataset.")
    columns: dict[ColumnName, str] = Field(
        description="{our column: the data's column} for spellings that are not recognised, like {text: beschreibung}."
    )
    caption: Annotated[str, Field(pattern=r"\S")] | None = Field(
        description="folder: one caption for all images. It replaces captions in the folder."
    )
    samples: PositiveInt = Field(description="Maximum number of pairs, chosen by seed.")
    min_side: PositiveInt = Field(description="Shortest side in pixels.")
    min_megapixels: NonNegativeFloat | None = Field(description="Smallest area in megapixels.")
    max_megapixels: NonNegativeFloat | None = Field(description="Largest area in megapixels.")
    max_aspect: Annotated[float, Field(ge=1)] = Field(description="Largest ratio of the longer side to the shorter.")
    min_caption: NonNegativeInt = Field(description="Shortest caption in characters.")
    max_caption: PositiveInt = Field(description="Longest caption in characters.")
    languages: list[str] = Field(description="Allowed values of the column `language`, like [en]; [] allows all.")
    blocked_words: list[str] = Field(
        description="Captions with one of these whole words are rejected, in upper or lower case."
    )
    aesthetic: AestheticFilter = Field(description="LAION aesthetic score, from a column of the data or from a model.")
    max_punsafe: Fraction | None = Field(description="Largest value of the column `punsafe`, 0 to 1.")
    max_pwatermark: Fraction | None = Field(description="Largest value of the column `pwatermark`, 0 to 1.")
    min_similarity: float | None = Field(description="Smallest CLIP similarity of image and caption.")
    min_contrast: NonNegativeFloat = Field(
        description="Smallest standard deviation of the most varied colour channel, 0 to 255; 2 rejects blank images."
    )
    near_duplicates: Annotated[int, Field(ge=0, le=8)] | None = Field(
        description="Bits of 128 in which perceptual hashes of duplicates differ; 6 finds resized and recompressed "
        "copies."
    )
    max_corrupt_fraction: Fraction = Field(description="A larger fraction of unusable images stops the stage.")

    @model_validator(mode="after")
    def _check_source_keys(self) -> Self:
        if self.source == "hub" and not self.id:
            raise ValueError("source hub needs an id such as owner/dataset")
        if self.caption is not None and self.source != "folder":
            raise ValueError(f"caption: one for all pictures goes with source folder, not with {self.source}")
        return self


class Encode(ConfigSection):
    resolution: Pixels = Field(description="Side of a square image in pixels; other shapes get the same area.")
    buckets: Literal["square", "computed", "ssd-1b"] = Field(
        description="square (center crop), or several aspect ratios: computed or ssd-1b."
    )
    max_upscale: Annotated[float, Field(ge=1)] = Field(
        description="Images that would be enlarged by more are rejected."
    )
    flip: bool = Field(description='Store mirrored images too. Captions with "left" or "right" then become wrong.')
    text: Literal["embeddings", "tokens"] = Field(
        description="embeddings, or tokens: a tenth of the disk space, and the text encoders run during training."
    )
    batch_size: PositiveInt = Field(description="Images at a time.")
    heldout: PositiveInt = Field(description="Pairs kept out of training, for validation.")
    shard_size: PositiveInt = Field(description="Pairs in a file.")
    store: Annotated[str, Field(min_length=1)] | None = Field(
        description="Folder or store of the shards (s3://bucket/folder, gs://...); null: data/latents itself "
        "(docs/scale.md)."
    )
    precision: Precision = Field(description="Precision of the VAE and the text encoders: fp32, tf32, bf16 or fp16.")
    storage: StorageDtype = Field(description="Precision of latents and embeddings on disk: fp32 or fp16.")
