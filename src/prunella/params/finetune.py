"""Section `finetune`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prunella.params.data import Encode, Filter
from prunella.params.fields import ConfigSection, EntryName, ModelName, NonNegativeFloat, PositiveInt
from prunella.params.teacher import ModelSource
from prunella.params.training import DiffusionTraining

FINETUNE_DATA_DIR = "data/own"  # where dvc.yaml puts the sets of `finetune.data`
MAIN_LATENTS_DIR = "data/latents"  # where dvc.yaml has the latents of the main data


class Lora(ConfigSection):
    """Low-rank matrices beside frozen weights (arXiv 2106.09685), by peft."""

    rank: Annotated[int, Field(ge=1, le=2**16)] = Field(description="Rank of the matrices.")
    alpha: Annotated[int, Field(ge=1, le=2**16)] = Field(description="The update is scaled by alpha / rank.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(description="Dropout of the matrices' input.")
    target_modules: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        description="Suffixes of module names; the default is all attention."
    )
    dora: bool = Field(description="DoRA: magnitude and direction are trained apart.")
    rslora: bool = Field(description="The update is scaled by alpha / sqrt(rank).")
    text_encoder: bool = Field(description="Train the text encoders' attention too; this needs encode.text: tokens.")
    text_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        description="Learning rate of the text encoders; null: learning_rate."
    )

    @model_validator(mode="after")
    def _check_dora_unet_only(self) -> Self:
        if self.dora and self.text_encoder:
            raise ValueError("dora goes with the UNet alone: stock diffusers does not read a text encoder's magnitudes")
        return self


class DreamBooth(ConfigSection):
    """A thing by a few pictures of it, beside pictures of its class, which the model draws (arXiv 2208.12242)."""

    weights: Literal["full", "lora"] = Field(description="full, or lora (with the settings of `lora`).")
    class_prompts: list[Annotated[str, Field(pattern=r"\S")]] = Field(
        description="Prompts of the subject's class, like [a photo of a dog], taken in turn."
    )
    class_images: PositiveInt = Field(description="Class images that the model generates before training.")
    prior_loss_weight: NonNegativeFloat = Field(
        description="Weight of the class images (prior preservation); 0: none are generated."
    )
    num_inference_steps: PositiveInt = Field(description="Sampler steps of a class image.")
    guidance_scale: Annotated[float, Field(ge=1)] = Field(description="Guidance scale of a class image.")
    text_encoder: bool = Field(description="Train the text encoders too; this needs encode.text: tokens.")
    text_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        description="Learning rate of the text encoders; null: learning_rate."
    )


class TextualInversion(ConfigSection):
    """A word for a thing, of whose embeddings alone the model learns: textual inversion (arXiv 2208.01618)."""

    placeholder_token: Annotated[str, Field(pattern=r"^\S+$")] | None = Field(
        description="Word for the subject as it stands in the captions, like <sks>."
    )
    num_vectors: Annotated[int, Field(ge=1, le=64)] = Field(description="Tokens of that word.")
    initializer_token: str | None = Field(
        description="Word whose embedding is the start; null: the mean of the placeholder's own tokens."
    )


class FinetuneDataset(ConfigSection):
    """A set of fine-tuning's own: an entry of `finetune.data`, both parts completed (see `read_params`)."""

    filter: Filter = Field(description="What differs from the shipped section filter.")
    encode: Encode = Field(description="What differs from the section encode.")


class FinetuneBaseModel(ConfigSection):
    """A model that is no student of this graph, to be tuned as well: an entry of `finetune.base`."""

    model: ModelSource = Field(description="The model, with the keys of teacher.")
    data: EntryName = Field(description="Entry of finetune.data, encoded with the model's own VAE.")


class Finetune(DiffusionTraining):
    students: list[ModelName] | None = Field(
        description="Students to tune; null: all, []: none. Other students are passed on unchanged."
    )
    stage: Literal["distilled", "pruned"] = Field(description="Start from the distilled or the pruned student.")
    latents: Annotated[str, Field(min_length=1)] = Field(
        description="Training data: data/latents, or data/own/NAME/latents of an entry of `data`."
    )
    data: dict[EntryName, FinetuneDataset] = Field(
        description="Datasets for fine-tuning alone, as {NAME: {filter: {...}, encode: {...}}}; what is missing "
        "comes from those sections."
    )
    base: dict[EntryName, FinetuneBaseModel] = Field(
        description="External models to tune too, as {NAME: {model: {...}, data: NAME}}; `model` has the keys of "
        "teacher."
    )
    caption_keywords: list[str] = Field(
        description="Train on pairs whose caption has one of these words; [] takes all pairs."
    )
    output_weight: NonNegativeFloat = Field(description="Weight of the difference to the teacher's prediction; 0: off.")
    replay_weight: NonNegativeFloat = Field(
        description="Weight of replayed pairs of the main data, against forgetting; 0: off."
    )
    method: Literal["full", "lora", "dreambooth", "inversion"] = Field(
        description="full (all weights), lora, dreambooth (a subject from a few images) or inversion (embeddings of "
        "a placeholder token)."
    )
    lora: Lora = Field(description="Low-rank adapters.")
    dreambooth: DreamBooth = Field(description="A subject from a few images, with prior preservation.")
    inversion: TextualInversion = Field(description="Textual inversion; this needs encode.text: tokens.")

    @model_validator(mode="after")
    def _check_dreambooth(self) -> Self:
        if self.prior_weight and not self.dreambooth.class_prompts:
            raise ValueError("dreambooth.class_prompts: [a photo of a dog], for example; prior_weight: 0 does without")
        if self.uses_lora and self.lora.dora and self.trains_text_encoder:
            raise ValueError("lora.dora goes with the UNet alone, and dreambooth.text_encoder is true")
        return self

    @model_validator(mode="after")
    def _check_output_weight(self) -> Self:
        if self.output_weight and self.trains_text_encoder:
            raise ValueError(
                "output_weight: the teacher cannot read what text encoders that learn (text_encoder: true) say"
            )
        return self

    @model_validator(mode="after")
    def _check_placeholder_token(self) -> Self:
        if self.method == "inversion" and self.inversion.placeholder_token is None:
            raise ValueError(
                "inversion.placeholder_token: missing; the token for the subject as the captions have it, such as <sks>"
            )
        return self

    @property
    def trains_text_encoder(self) -> bool:
        """Whether the text encoders learn too."""
        return self.method == "inversion" or (
            self._text_encoder_section is not None and self._text_encoder_section.text_encoder
        )

    @property
    def text_learning_rate(self) -> float | None:
        """The text encoders' rate, if it is another than the UNet's."""
        return self._text_encoder_section.text_learning_rate if self._text_encoder_section else None

    @property
    def _text_encoder_section(self) -> Lora | DreamBooth | None:
        """The section that decides."""
        if self.method == "dreambooth":
            return self.dreambooth
        return self.lora if self.method == "lora" else None

    @property
    def uses_lora(self) -> bool:
        """Whether matrices beside the weights learn, and not the weights."""
        return self.method == "lora" or (self.method == "dreambooth" and self.dreambooth.weights == "lora")

    @property
    def prior_weight(self) -> float:
        """The weight of class pictures."""
        return self.dreambooth.prior_loss_weight if self.method == "dreambooth" else 0.0

    @property
    def auxiliary_weights(self) -> dict[str, float]:
        """The weights of what is learned beside the data, by kind, of those that have any."""
        weights = {"prior": self.prior_weight, "rehearsal": self.replay_weight}
        return {kind: weight for kind, weight in weights.items() if weight}
