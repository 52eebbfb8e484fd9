"""`params.yaml`, checked: one model per section, and an unknown key is an error that names its neighbour.

Every stage reads the whole file first, so that a mistake in `benchmark` is found before hours of `distill`.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from prunella.errors import UserError
from prunella.params.validation import did_you_mean, fill_defaults, load_shipped_defaults, validate_config
from prunella.storage.files import read_yaml

MAX_COUNT = 2**40  # of anything counted: beyond it lies a slip of the keyboard, and work without end
PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Pixels = Annotated[int, Field(ge=8, le=2**16)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]  # tf32: as fp32, but for a GPU's matrix products
StorageDtype = Literal["fp32", "fp16"]
FeatureMode = Literal["block-bk", "block-segmind", "sub-block", "self-attention"]  # which features are compared
FeatureNormalization = Literal["none", "teacher"]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]  # of a student, and of its files and folders
EntryName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]  # of a section; without dots, which part keys
BudgetLimit = Annotated[float, Field(gt=0)] | ModelName
WeightSchedule = Annotated[list[tuple[Fraction, NonNegativeFloat]], Field(min_length=1)]
# A number, or [share of the training done, weight] points to go straight between.
LossWeight = Annotated[
    Annotated[NonNegativeFloat, Tag("number")] | Annotated[WeightSchedule, Tag("points")],
    Discriminator(lambda value: "points" if isinstance(value, list) else "number"),
]
# A share of a student's cuts, or a plan's name.
PhasePlan = Annotated[
    Annotated[float, Field(gt=0, le=1), Tag("number")] | Annotated[ModelName, Tag("named")],
    Discriminator(lambda value: "number" if isinstance(value, int | float) else "named"),
]
FINETUNE_DATA_DIR = "data/own"  # where dvc.yaml puts the sets of `finetune.data`
MAIN_LATENTS_DIR = "data/latents"  # where dvc.yaml has the latents of the main data


class ConfigSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class ModelSource(ConfigSection):
    """The model to be made smaller: a diffusers pipeline folder, a checkpoint of one file, or a Hub id."""

    source: Literal["bundled", "folder", "file", "hub"]
    path: Annotated[str, Field(min_length=1)]
    id: str | None  # hub: owner/model
    revision: Annotated[str, Field(min_length=1)]  # hub: branch, tag or commit
    config: str | None  # file: folder or Hub id of its configs and tokenizers; None: the original's
    allow_pickle: bool

    @model_validator(mode="after")
    def _check_hub_id(self) -> Self:
        if self.source == "hub" and not self.id:
            raise ValueError("source hub needs an id such as stable-diffusion-v1-5/stable-diffusion-v1-5")
        return self


class AestheticFilter(ConfigSection):
    """The LAION aesthetic score, from the data's column or from a model."""

    min: float | None  # 1 to 10
    model: str | None  # file of the head on CLIP, where the data have no such column
    clip: str | None  # folder of the CLIP that the head is for

    @model_validator(mode="after")
    def _check_model_and_clip(self) -> Self:
        if (self.model is None) != (self.clip is None):
            raise ValueError("model and clip go together: the head, and the folder of the CLIP that it is for")
        return self


class Generate(ConfigSection):
    """Pictures that a model makes of prompts: one set, an entry of the section `generate`."""

    prompts: Annotated[str, Field(min_length=1)]  # a file of prompts, or data whose captions they are
    samples: PositiveInt  # at most so many prompts, drawn by seed
    images_per_prompt: PositiveInt  # of each prompt, each from noise of its own
    model: Annotated[str, Field(min_length=1)]  # models/teacher.json, or a pipeline folder
    id: str | None  # a Hub model, owner/name; `model` is then not looked at
    revision: Annotated[str, Field(min_length=1)]  # of it: branch, tag or commit
    negative_prompt: str
    guidance_scale: Annotated[float, Field(ge=1)]
    scheduler: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] | None  # diffusers' name; None: the model's own
    num_inference_steps: PositiveInt
    sizes: Annotated[list[tuple[Pixels, Pixels]], Field(min_length=1)]  # width and height, taking turns
    batch_size: PositiveInt
    precision: Precision
    storage: StorageDtype  # of the latents
    seed: Seed
    store: Annotated[str, Field(min_length=1)] | None  # where the tars lie; None: in the set's folder


ColumnName = Literal["text", "image", "width", "height", "language", "aesthetic", "punsafe", "pwatermark", "similarity"]


class Filter(ConfigSection):
    """Which image-caption pairs are used, and where they come from. A criterion that is None is not asked."""

    source: Literal["scenes", "folder", "parquet", "webdataset", "hub", "generated"]
    path: Annotated[str, Field(min_length=1)]
    id: str | None  # hub: owner/dataset
    revision: Annotated[str, Field(min_length=1)]  # hub: branch, tag or commit
    split: Annotated[str, Field(min_length=1)]  # hub
    columns: dict[ColumnName, str]  # {ours: the data's}, where the field's usual spellings do not do
    caption: Annotated[str, Field(pattern=r"\S")] | None  # folder: of every picture in it, whatever lies beside them
    samples: PositiveInt  # at most this many pairs, drawn by seed
    min_side: PositiveInt  # pixels
    min_megapixels: NonNegativeFloat | None
    max_megapixels: NonNegativeFloat | None
    max_aspect: Annotated[float, Field(ge=1)]  # longer side over shorter
    min_caption: NonNegativeInt  # characters
    max_caption: PositiveInt
    languages: list[str]  # codes as in the column `language`; none: all
    blocked_words: list[str]  # whole words, upper and lower case alike
    aesthetic: AestheticFilter
    max_punsafe: Fraction | None
    max_pwatermark: Fraction | None
    min_similarity: float | None  # CLIP's, of picture and caption
    min_contrast: NonNegativeFloat  # standard deviation of the liveliest colour channel, of 255
    near_duplicates: Annotated[int, Field(ge=0, le=8)] | None  # bits of 128 in which perceptual hashes differ
    max_corrupt_fraction: Fraction  # a larger share of unusable pictures stops the stage

    @model_validator(mode="after")
    def _check_source_keys(self) -> Self:
        if self.source == "hub" and not self.id:
            raise ValueError("source hub needs an id such as owner/dataset")
        if self.caption is not None and self.source != "folder":
            raise ValueError(f"caption: one for all pictures goes with source folder, not with {self.source}")
        return self


class Encode(ConfigSection):
    resolution: Pixels  # both sides of a square; of other sizes the area is as large
    buckets: Literal["square", "computed", "ssd-1b"]
    max_upscale: Annotated[float, Field(ge=1)]  # smaller pictures than this can help are left out
    flip: bool  # pictures are stored mirrored too, and training draws one of the two
    text: Literal["embeddings", "tokens"]
    batch_size: PositiveInt
    heldout: PositiveInt  # pairs kept out of training
    shard_size: PositiveInt  # pairs in a shard
    store: Annotated[str, Field(min_length=1)] | None  # where shards lie; None: in the encoded folder
    precision: Precision
    storage: StorageDtype  # of latents and embeddings on disk


class PlanRequest(ConfigSection):
    """A student that chooses itself."""

    # What it may cost at most: a number, below 1 a share of the teacher's, or a student that costs as much.
    budget: Annotated[dict[Literal["params", "macs", "ms"], BudgetLimit], Field(min_length=1, max_length=1)]
    keep: list[Annotated[str, Field(pattern=r"^(mid|(down|up)\.\d(\.\d)?)$")]]  # blocks that must stay
    attention: bool  # whether a stage's attention may go as a whole


class PlanSearch(ConfigSection):
    """How students are chosen; what is asked of each is in `students`."""

    samples: PositiveInt  # held out, that students are measured on
    candidates: PositiveInt  # choices that are measured as wholes
    tournament_rounds: Annotated[int, Field(ge=0, le=8)]  # of the tournament, among 2^rounds of them
    steps: PositiveInt  # of each student in a round
    batch_size: PositiveInt
    learning_rate: Annotated[float, Field(gt=0)]
    precision: Precision
    seed: Seed
    students: dict[EntryName, PlanRequest]


class Prune(ConfigSection):
    storage: StorageDtype


class Training(ConfigSection):
    """What every training has; the loop reads nothing else."""

    steps: PositiveInt
    batch_size: PositiveInt  # examples at once, over all processes
    gradient_accumulation_steps: PositiveInt  # batches a step
    optimizer: Literal["adamw", "adamw-8bit"]
    learning_rate: Annotated[float, Field(gt=0)]
    lr_warmup_steps: NonNegativeInt
    lr_scheduler: Literal["constant", "cosine", "linear"]
    weight_decay: NonNegativeFloat
    max_grad_norm: Annotated[float, Field(gt=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]  # 0: no EMA
    precision: Precision
    seed: Seed


AdamBeta = Annotated[float, Field(ge=0, lt=1)]


class DiffusionTraining(Training):
    """What distillation and fine-tuning share."""

    betas: tuple[AdamBeta, AdamBeta]  # AdamW's averages of the gradient and of its square
    eps: Annotated[float, Field(gt=0)]  # AdamW's
    snr_gamma: Annotated[float, Field(gt=0)] | None  # min-SNR weighting by timestep; None: all alike
    noise_offset: NonNegativeFloat
    shuffle_shards: PositiveInt | None  # pairs are mixed among so many shards at a time; None: among all
    caption_dropout: Fraction
    gradient_checkpointing: bool
    evaluate_every: PositiveInt
    patience: PositiveInt | None  # measurements in a row without a better one, after which training ends; None: never
    storage: StorageDtype


class LossWeights(ConfigSection):
    """Weights of the three terms of distillation."""

    task_weight: LossWeight
    output_weight: LossWeight
    feature_weight: LossWeight

    @field_validator("task_weight", "output_weight", "feature_weight")
    @classmethod
    def _check_schedule_increasing(cls, weight: LossWeight) -> LossWeight:
        if isinstance(weight, list):
            fractions = [fraction for fraction, _ in weight]
            if fractions != sorted(set(fractions)):
                raise ValueError(f"the shares of the training must increase from point to point, got {fractions}")
        return weight

    @model_validator(mode="after")
    def _check_any_weight(self) -> Self:
        if not (
            is_weight_active(self.task_weight)
            or is_weight_active(self.output_weight)
            or is_weight_active(self.feature_weight)
        ):
            raise ValueError("task_weight, output_weight and feature_weight are all 0: there is nothing to learn")
        return self


class Phase(LossWeights):
    """A part of a distillation, an entry of `distill.phases`; completed (see `read_params`)."""

    steps: PositiveInt
    teacher: EntryName | None  # of section teachers; None: that of section teacher
    plan: PhasePlan | None  # what is left to learn; None: the student's own
    learning_rate: Annotated[float, Field(gt=0)]


class Distill(DiffusionTraining, LossWeights):
    """Weights of the three terms as in SD-Small and SD-Tiny (segmind/distill-sd): 1, 0.5, 0.5."""

    phases: list[Phase]  # none: one training of one teacher and one plan
    features: FeatureMode | None  # None: what the student's plan names
    feature_normalization: FeatureNormalization

    @model_validator(mode="after")
    def _check_phases(self) -> Self:
        if not self.phases:
            return self
        if self.steps != (total_steps := sum(phase.steps for phase in self.phases)):
            raise ValueError(
                f"steps: {self.steps}, but its phases have {total_steps} together; write steps: {total_steps}"
            )
        fractions = [phase.plan for phase in self.phases if isinstance(phase.plan, float)]
        if fractions != sorted(fractions):
            raise ValueError(f"phases: the share of cuts (plan) must not fall from phase to phase, got {fractions}")
        if isinstance(last := self.phases[-1].plan, float) and last < 1:
            raise ValueError(f"phases: the last one makes {last} of the student's cuts; plan: null makes all of them")
        if self.patience is not None:
            raise ValueError("patience: a training in phases has the steps that they name; patience: null")
        return self

    @model_serializer(mode="wrap")
    def _omit_empty_phases(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without phases the section is what it was before there were any: results are known by its digest."""
        return {name: value for name, value in serialize(self).items() if name != "phases" or value}


class Lora(ConfigSection):
    """Low-rank matrices beside frozen weights (arXiv 2106.09685), by peft."""

    rank: Annotated[int, Field(ge=1, le=2**16)]
    alpha: Annotated[int, Field(ge=1, le=2**16)]  # they count alpha / rank; with rslora alpha / sqrt(rank)
    dropout: Annotated[float, Field(ge=0, lt=1)]  # of what goes into them
    target_modules: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]  # ends of modules' names
    dora: bool  # direction and magnitude apart (arXiv 2402.09353)
    rslora: bool  # arXiv 2312.03732
    text_encoder: bool  # the text encoders' attention as well
    text_learning_rate: Annotated[float, Field(gt=0)] | None  # None: that of the UNet

    @model_validator(mode="after")
    def _check_dora_unet_only(self) -> Self:
        if self.dora and self.text_encoder:
            raise ValueError("dora goes with the UNet alone: stock diffusers does not read a text encoder's magnitudes")
        return self


class DreamBooth(ConfigSection):
    """A thing by a few pictures of it, beside pictures of its class, which the model draws (arXiv 2208.12242)."""

    weights: Literal["full", "lora"]
    class_prompts: list[Annotated[str, Field(pattern=r"\S")]]  # what the thing is one of, taking turns
    class_images: PositiveInt
    prior_loss_weight: NonNegativeFloat  # of those beside the thing's; 0: none are drawn
    num_inference_steps: PositiveInt
    guidance_scale: Annotated[float, Field(ge=1)]
    text_encoder: bool  # learns as the UNet does
    text_learning_rate: Annotated[float, Field(gt=0)] | None  # None: that of the UNet


class TextualInversion(ConfigSection):
    """A word for a thing, of whose embeddings alone the model learns: textual inversion (arXiv 2208.01618)."""

    placeholder_token: Annotated[str, Field(pattern=r"^\S+$")] | None  # as it stands in the captions
    num_vectors: Annotated[int, Field(ge=1, le=64)]  # tokens that it gets
    initializer_token: str | None  # a word whose embedding it begins with; None: the mean of its own pieces'


class FinetuneDataset(ConfigSection):
    """A set of fine-tuning's own: an entry of `finetune.data`, both parts completed (see `read_params`)."""

    filter: Filter
    encode: Encode


class FinetuneBaseModel(ConfigSection):
    """A model that is no student of this graph, to be tuned as well: an entry of `finetune.base`."""

    model: ModelSource  # any student will do
    data: EntryName  # of `finetune.data`, encoded with the model's own VAE


class Finetune(DiffusionTraining):
    students: list[ModelName] | None  # None: all; the others are passed on as they are
    stage: Literal["distilled", "pruned"]  # of this graph's students, that is tuned
    latents: Annotated[str, Field(min_length=1)]  # the folder that they learn from
    data: dict[EntryName, FinetuneDataset]
    base: dict[EntryName, FinetuneBaseModel]
    caption_keywords: list[str]  # pairs whose caption holds one of these words; none: all pairs
    output_weight: NonNegativeFloat  # the teacher's prediction, beside the data
    replay_weight: NonNegativeFloat  # weight of pairs of the main data, as many beside each batch
    method: Literal["full", "lora", "dreambooth", "inversion"]
    lora: Lora
    dreambooth: DreamBooth
    inversion: TextualInversion

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
                "inversion.placeholder_token: missing; the token for the subject as the captions have it, such as sks"
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
        """What says so."""
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


def is_weight_active(weight: LossWeight) -> bool:
    """Whether a weight is ever above 0."""
    return any(value for _, value in weight) if isinstance(weight, list) else weight > 0


class Monitoring(ConfigSection):
    """What is looked at while a training runs; nothing here changes what is learned."""

    checkpoint_every: PositiveInt  # steps
    image_every: PositiveInt  # steps
    prompts: (
        PositiveInt | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    )  # of held-out captions
    negative_prompt: str
    num_inference_steps: PositiveInt  # of the sampler
    guidance_scale: Annotated[float, Field(ge=1)]
    size: Pixels | None  # None: the model's own


QuantizedDtype = Literal["int8", "fp8", "int4"]  # of the weights of a UNet's linear layers


def parse_quantized_dtype(name: str) -> QuantizedDtype | None:
    """The bits that a model's name ends in, as "sd-tiny/int8"; None where it is of full precision."""
    return next((bits for bits in get_args(QuantizedDtype) if name.rpartition("/")[2] == bits), None)


class LatencyVariant(ConfigSection):
    """A way to draw whose cost is measured beside eager drawing of one picture."""

    precision: Precision
    compile: bool  # the UNet's blocks by torch.compile
    channels_last: bool
    batch: PositiveInt  # pictures at a time

    @property
    def title(self) -> str:
        """As "bf16 compiled channels-last batch 4", of letters that MLflow allows in a metric's name."""
        options = ["compiled" if self.compile else "eager"] + ["channels-last"] * self.channels_last
        return " ".join([self.precision, *options, f"batch {self.batch}"])


class Backbones(ConfigSection):
    """Networks that metrics look through: a local folder or file, or the id of a Hub model that is in the cache."""

    clip: str | None  # folder or id, as transformers has it
    dino: str | None  # folder or id, as transformers has it
    inception: str | None  # file, TorchScript
    vgg: str | None  # file, TorchScript
    aesthetic: str | None  # file, LAION's head on `clip`
    preference: str | None  # folder or id of a CLIP that was trained on preferences
    hpsv2: str | None  # folder or id of another such CLIP
    vqa: str | None  # folder or id of a chat model that sees pictures


class ReferenceImages(ConfigSection):
    """Real pictures that sets of drawn ones are compared with."""

    path: str | None  # folder of them; None: those that passed the filter and whose captions are not drawn
    max_images: PositiveInt  # at most


SchedulerName = Literal[  # as diffusers calls them
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]


# What a published protocol fixes: figures of another setting are not to be put beside its own.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "bk-sdm": {
        "prompts": 30_000,
        "prompts_from": "file",
        "negative_prompt": "",
        "size": 512,
        "seeds": 1,
        "noise": "stream",
        "seed": 1234,
        "scheduler": "PNDMScheduler",
        "num_inference_steps": 25,
        "guidance_scale": 7.5,
        "precision": "fp16",
        "resize": 256,
        "jpeg": True,
    }
}


class Benchmark(ConfigSection):
    protocol: Literal["bk-sdm"] | None  # beside whose published figures the report puts its own
    prompts: PositiveInt  # at most
    prompts_from: Literal["heldout", "file"]  # held-out captions, chosen by seed, or the first of a file
    prompt_file: Annotated[str, Field(min_length=1)]  # .txt, .jsonl, .csv; a dependency, so it always exists
    negative_prompt: str
    size: Literal["own", "every"] | Pixels  # of pictures: the prompt's pair's, each of the pairs', or a square
    seeds: PositiveInt  # pictures a prompt
    noise: Literal[
        "own", "stream"
    ]  # each picture's by its number, or all from one generator, as published protocols do
    scheduler: SchedulerName | None  # None: the model's own
    num_inference_steps: PositiveInt
    guidance_scale: Annotated[float, Field(ge=1)]
    batch_size: PositiveInt
    latency_rounds: PositiveInt
    variants: list[LatencyVariant]  # measured by cost beside eager drawing of one picture at a time
    quantised: list[QuantizedDtype]  # models besides: each student's fine-tuned one with such weights
    metrics: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]]  # of drawn pictures: files of evaluation/metrics
    backbones: Backbones
    reference_images: ReferenceImages
    resize: Pixels | None  # pictures are squashed to a square of it before they are measured; None: as they are drawn
    jpeg: bool  # pictures go through JPEG before they are measured, as published protocols store them
    precision: Precision
    seed: Seed

    @model_validator(mode="after")
    def _check_protocol(self) -> Self:
        published = PROTOCOLS[self.protocol] if self.protocol else {}
        if mismatches := [f"{name}: {value}" for name, value in published.items() if getattr(self, name) != value]:
            raise ValueError(f"protocol {self.protocol} needs {', '.join(mismatches)}; or protocol: null")
        return self

    @property
    def sampling_kwargs(self) -> dict[str, Any]:
        """How pictures are drawn, as `prunella.sampling.generate` takes it."""
        return {"steps": self.num_inference_steps, "guidance": self.guidance_scale, "seed": self.seed}


ExportFormat = Literal["single-file", "onnx", "int8", "fp8", "int4"]  # that a student leaves in


class Export(ConfigSection):
    """What stage `export` writes; none by default."""

    students: list[ModelName]  # or entries of finetune.base
    to: Annotated[list[ExportFormat], Field(min_length=1)]
    dtype: Literal["fp16", "bf16", "fp32"] | None  # None: each form's own


class Gate(ConfigSection):
    """What a figure of the benchmark must be for a student to be promoted."""

    metric: Annotated[str, Field(min_length=1)]  # as in reports/benchmark.json
    min: float | None
    max: float | None
    relative_to_teacher: bool  # as a share of the teacher's figure

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"the gate for {self.metric} asks for nothing: give it a min or a max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the gate for {self.metric}: its min {self.min} is above its max {self.max}")
        return self


class Promote(ConfigSection):
    """Which student may be served; no stage depends on it."""

    alias: ModelName
    gates: list[Gate]


class Runtime(ConfigSection):
    engine: Literal["local", "ray"]  # of filter, encode, generate: this machine works, or those of a Ray cluster
    device: str  # auto, cpu, cuda, cuda:1, mps
    workers: NonNegativeInt  # threads that read and decode pictures; 0: one a core
    processes: (
        PositiveInt  # of generate, encode, distill and finetune; each has its share of the batch, on a GPU of its own
    )
    threads: NonNegativeInt  # 0: as torch decides
    compile: Literal["auto"] | bool  # torch.compile; auto: on a GPU
    channels_last: Literal["auto"] | bool  # memory layout of convolutions; auto: on a GPU, unless with fsdp
    fsdp: bool  # weights, gradients and moments of distill and finetune are shared out among the processes
    micro_batch: (
        Literal["auto"] | PositiveInt
    )  # examples of a batch that a device trains on at once; auto: as many as fit


class Params(ConfigSection):
    seed: Seed
    students: Annotated[list[ModelName], Field(min_length=1)]
    teacher: ModelSource
    teachers: dict[EntryName, ModelSource]  # further ones, for phases of the distillation
    generate: dict[EntryName, Generate]
    filter: Filter
    encode: Encode
    plan: PlanSearch
    prune: Prune
    distill: Distill
    finetune: Finetune
    benchmark: Benchmark
    watch: Monitoring
    export: Export
    promote: Promote
    runtime: Runtime

    @model_validator(mode="after")
    def _check_finetune_data(self) -> Self:
        """A set that nobody learns from, and a folder that no set makes, are slips."""
        tuning, students = self.finetune, set(self.students)
        for name, base in tuning.base.items():
            if base.data not in tuning.data:
                entries = sorted(tuning.data) or ["none"]
                raise ValueError(
                    f"finetune.base.{name}.data: {did_you_mean('entry of finetune.data', base.data, entries)}"
                )
            if tuning.replay_weight:
                raise ValueError(
                    f"finetune.replay_weight: {tuning.replay_weight}, but the main data are not encoded for "
                    f"finetune.base.{name}; 0 does without them"
                )
            if name in students:
                raise ValueError(f"finetune.base.{name}: a student of this graph has that name; give it another")
            if name == "teacher":
                raise ValueError("finetune.base.teacher: the teacher's pictures have that name; give it another")
        entry_by_latents = {f"{FINETUNE_DATA_DIR}/{name}/latents": name for name in tuning.data}
        latents_dirs = ", ".join(entry_by_latents) or "finetune.data is empty"
        if tuning.latents not in (
            MAIN_LATENTS_DIR,
            *entry_by_latents,
        ):  # it stands in a command of dvc.yaml, so nothing else may
            raise ValueError(
                f"finetune.latents: {tuning.latents} is made by no entry of finetune.data ({latents_dirs})"
            )
        if entry_by_latents and tuning.latents not in entry_by_latents and not tuning.base:
            raise ValueError(
                f"finetune.latents: {tuning.latents}, so finetune.data is for nothing; it makes {latents_dirs}"
            )
        return self

    @model_validator(mode="after")
    def _check_export_students(self) -> Self:
        exportable = [*self.students, *self.finetune.base]
        if missing := [name for name in self.export.students if name not in exportable]:
            raise ValueError(
                f"export.students: {did_you_mean('student of this graph', missing[0], sorted(exportable))}"
            )
        return self

    @model_validator(mode="after")
    def _check_phase_teachers(self) -> Self:
        for number, phase in enumerate(self.distill.phases):
            if phase.teacher is not None and phase.teacher not in self.teachers:
                entries = sorted(self.teachers) or ["none"]
                raise ValueError(
                    f"distill.phases.{number}.teacher: {did_you_mean('entry of teachers', phase.teacher, entries)}"
                )
        return self

    @model_validator(mode="after")
    def _check_caption_words(self) -> Self:
        """One caption for all of a set's pictures, and none of the words in it: seen before anything is encoded."""
        words = {word.lower() for word in self.finetune.caption_keywords}
        for name, dataset in self.finetune.data.items():
            caption = dataset.filter.caption
            if words and caption is not None and not words & set(caption.lower().split()):
                location = f"the caption of finetune.data.{name} ({caption!r})"
                raise ValueError(
                    f"finetune.caption_keywords: none of {self.finetune.caption_keywords} is in {location}; [] takes "
                    "all pairs"
                )
        return self

    @field_validator("students")
    @classmethod
    def _check_unique_students(cls, students: list[str]) -> list[str]:
        if len(set(students)) < len(students):
            raise ValueError(f"{students} names a student twice")
        return students

    @model_validator(mode="after")
    def _check_finetune_students(self) -> Self:
        if unknown_students := sorted(set(self.finetune.students or ()) - set(self.students)):
            raise ValueError(
                f"finetune.students: {unknown_students[0]!r} is not among students: {', '.join(self.students)}"
            )
        return self


def students_with_fixed_plan(params: Params) -> list[str]:
    """The students whose plans are there already; the others choose themselves."""
    return [name for name in params.students if name not in params.plan.students]


def students_not_finetuned(params: Params) -> list[str]:
    """The students that are not fine-tuned but passed on as they are."""
    selected = params.finetune.students
    return [] if selected is None else [name for name in params.students if name not in selected]


def read_params(path: Path | str = "params.yaml") -> Params:
    """Read and check a parameter file; a key that it lacks takes the shipped default, which is printed to stderr.

    So a file written for an older version still works. Raises UserError that lists every mistake, one a line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such parameter file; `prunella init` writes one")
    content = read_yaml(path)
    filled: dict[str, Any] = {}
    if isinstance(content, dict):
        content = fill_entries(fill_defaults(content, load_shipped_defaults(), filled))
    params = validate_config(Params, content, str(path))
    if filled:
        defaults_used = ", ".join(f"{name}: {value}" for name, value in filled.items())
        print(f"{path}: lacks keys of this version; taken from the shipped defaults: {defaults_used}", file=sys.stderr)
    return params


def fill_entries(content: dict) -> dict:
    """`content` with what the entries of its sets, bases, teachers and phases lack."""
    return fill_phase_entries(fill_finetune_entries(fill_generate_entries(content)))


def fill_generate_entries(content: dict) -> dict:
    """`content` with entries of `generate` that say where their tars lie, which older ones did not."""
    entries = content.get("generate")
    if not isinstance(entries, dict):
        return content
    return content | {"generate": _fill_entry_sections(entries, {name: {"store": None} for name in entries})}


def fill_finetune_entries(content: dict) -> dict:
    """`content` with whole entries of `finetune.data` and `finetune.base`.

    What an entry's `filter` or `model` lacks is as shipped, since criteria for millions are none for twenty; what its
    `encode` lacks is as in the section `encode`.
    """
    tuning, shipped = content.get("finetune"), load_shipped_defaults()
    if not isinstance(tuning, dict):
        return content
    defaults = {"filter": shipped["filter"], "model": shipped["teacher"], "encode": content.get("encode")}
    filled = {key: _fill_named_entries(tuning.get(key), defaults) for key in ("data", "base")}
    return content | {"finetune": tuning | filled}


def fill_phase_entries(content: dict) -> dict:
    """`content` with whole entries of `teachers` and `distill.phases`.

    What a teacher's entry lacks is as shipped. What a phase's lacks is as in the section `distill`, its teacher the
    first and its plan the student's own.
    """
    section, teachers = content.get("distill"), content.get("teachers")
    if isinstance(teachers, dict):
        content = content | {
            "teachers": _fill_entry_sections(teachers, dict.fromkeys(teachers, load_shipped_defaults()["teacher"]))
        }
    if not isinstance(section, dict) or not isinstance(section.get("phases"), list):
        return content
    shared = {name: section[name] for name in ("learning_rate", *LossWeights.model_fields) if name in section}
    defaults = {"teacher": None, "plan": None} | shared
    phases = [defaults | phase if isinstance(phase, dict) else phase for phase in section["phases"]]
    return content | {"distill": section | {"phases": phases}}


def _fill_named_entries(entries: Any, defaults: dict[str, Any]) -> Any:
    """Entries by name whose parts get what they lack; what is no entry or part stays as it is, for `check` to name."""
    if not isinstance(entries, dict):
        return entries
    return {
        name: _fill_entry_sections(entry, defaults) if isinstance(entry, dict) else entry
        for name, entry in entries.items()
    }


def _fill_entry_sections(entry: dict, defaults: dict[str, Any]) -> dict:
    pairs_by_key = {key: (part, defaults.get(key)) for key, part in entry.items()}
    return {
        key: fill_defaults(part, default, {}) if isinstance(part, dict) and isinstance(default, dict) else part
        for key, (part, default) in pairs_by_key.items()
    }
