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
from prunella.params.validation import check, shipped_defaults, unknown, with_defaults
from prunella.storage.files import read_yaml

MOST = 2**40  # of anything counted: beyond it lies a slip of the keyboard, and work without end
Count = Annotated[int, Field(ge=1, le=MOST)]
Whole = Annotated[int, Field(ge=0, le=MOST)]
Pixels = Annotated[int, Field(ge=8, le=2**16)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]  # tf32: as fp32, but for a GPU's matrix products
Storage = Literal["fp32", "fp16"]
Mode = Literal["block-bk", "block-segmind", "sub-block", "self-attention"]  # which features are compared
Normalisation = Literal["none", "teacher"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]  # of a student, and of its files and folders
Entry = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]  # of a section; without dots, which part keys
Cost = Annotated[float, Field(gt=0)] | Name
Points = Annotated[list[tuple[Share, Amount]], Field(min_length=1)]
# A number, or [share of the training done, weight] points to go straight between.
Weight = Annotated[
    Annotated[Amount, Tag("number")] | Annotated[Points, Tag("points")],
    Discriminator(lambda value: "points" if isinstance(value, list) else "number"),
]
# A share of a student's cuts, or a plan's name.
Cut = Annotated[
    Annotated[float, Field(gt=0, le=1), Tag("number")] | Annotated[Name, Tag("named")],
    Discriminator(lambda value: "number" if isinstance(value, int | float) else "named"),
]
OWN_DATA = "data/own"  # where dvc.yaml puts the sets of `finetune.data`
MAIN_DATA = "data/latents"  # where dvc.yaml has the latents of the main data


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Teacher(Section):
    """The model to be made smaller: a diffusers pipeline folder, a checkpoint of one file, or a Hub id."""

    source: Literal["bundled", "folder", "file", "hub"]
    path: Annotated[str, Field(min_length=1)]
    id: str | None  # hub: owner/model
    revision: Annotated[str, Field(min_length=1)]  # hub: branch, tag or commit
    config: str | None  # file: folder or Hub id of its configs and tokenizers; None: the original's
    allow_pickle: bool

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.source == "hub" and not self.id:
            raise ValueError("source hub needs an id such as stable-diffusion-v1-5/stable-diffusion-v1-5")
        return self


class Aesthetic(Section):
    """The LAION aesthetic score, from the data's column or from a model."""

    min: float | None  # 1 to 10
    model: str | None  # file of the head on CLIP, where the data have no such column
    clip: str | None  # folder of the CLIP that the head is for

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.model is None) != (self.clip is None):
            raise ValueError("model and clip go together: the head, and the folder of the CLIP that it is for")
        return self


class Generate(Section):
    """Pictures that a model makes of prompts: one set, an entry of the section `generate`."""

    prompts: Annotated[str, Field(min_length=1)]  # a file of prompts, or data whose captions they are
    samples: Count  # at most so many prompts, drawn by seed
    pictures: Count  # of each prompt, each from noise of its own
    model: Annotated[str, Field(min_length=1)]  # models/teacher.json, or a pipeline folder
    id: str | None  # a Hub model, owner/name; `model` is then not looked at
    revision: Annotated[str, Field(min_length=1)]  # of it: branch, tag or commit
    negative_prompt: str
    guidance: Annotated[float, Field(ge=1)]
    scheduler: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")] | None  # diffusers' name; None: the model's own
    inference_steps: Count
    sizes: Annotated[list[tuple[Pixels, Pixels]], Field(min_length=1)]  # width and height, taking turns
    batch_size: Count
    precision: Precision
    storage: Storage  # of the latents
    seed: Seed
    store: Annotated[str, Field(min_length=1)] | None  # where the tars lie; None: in the set's folder


Column = Literal["text", "image", "width", "height", "language", "aesthetic", "punsafe", "pwatermark", "similarity"]


class Filter(Section):
    """Which image-caption pairs are used, and where they come from. A criterion that is None is not asked."""

    source: Literal["scenes", "folder", "parquet", "webdataset", "hub", "generated"]
    path: Annotated[str, Field(min_length=1)]
    id: str | None  # hub: owner/dataset
    revision: Annotated[str, Field(min_length=1)]  # hub: branch, tag or commit
    split: Annotated[str, Field(min_length=1)]  # hub
    columns: dict[Column, str]  # {ours: the data's}, where the field's usual spellings do not do
    caption: Annotated[str, Field(pattern=r"\S")] | None  # folder: of every picture in it, whatever lies beside them
    samples: Count  # at most this many pairs, drawn by seed
    min_side: Count  # pixels
    min_megapixels: Amount | None
    max_megapixels: Amount | None
    max_aspect: Annotated[float, Field(ge=1)]  # longer side over shorter
    min_caption: Whole  # characters
    max_caption: Count
    languages: list[str]  # codes as in the column `language`; none: all
    blocked_words: list[str]  # whole words, upper and lower case alike
    aesthetic: Aesthetic
    max_punsafe: Share | None
    max_pwatermark: Share | None
    min_similarity: float | None  # CLIP's, of picture and caption
    min_contrast: Amount  # standard deviation of the liveliest colour channel, of 255
    near_duplicates: Annotated[int, Field(ge=0, le=8)] | None  # bits of 128 in which perceptual hashes differ
    max_broken: Share  # a larger share of unusable pictures stops the stage

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.source == "hub" and not self.id:
            raise ValueError("source hub needs an id such as owner/dataset")
        if self.caption is not None and self.source != "folder":
            raise ValueError(f"caption: one for all pictures goes with source folder, not with {self.source}")
        return self


class Encode(Section):
    resolution: Pixels  # both sides of a square; of other sizes the area is as large
    buckets: Literal["square", "computed", "ssd-1b"]
    max_upscale: Annotated[float, Field(ge=1)]  # smaller pictures than this can help are left out
    flip: bool  # pictures are stored mirrored too, and training draws one of the two
    text: Literal["embeddings", "tokens"]
    batch_size: Count
    heldout: Count  # pairs kept out of training
    shard_size: Count  # pairs in a shard
    store: Annotated[str, Field(min_length=1)] | None  # where shards lie; None: in the encoded folder
    precision: Precision
    storage: Storage  # of latents and embeddings on disk


class Description(Section):
    """A student that chooses itself."""

    # What it may cost at most: a number, below 1 a share of the teacher's, or a student that costs as much.
    budget: Annotated[dict[Literal["params", "macs", "ms"], Cost], Field(min_length=1, max_length=1)]
    keep: list[Annotated[str, Field(pattern=r"^(mid|(down|up)\.\d(\.\d)?)$")]]  # blocks that must stay
    attention: bool  # whether a stage's attention may go as a whole


class Planning(Section):
    """How students are chosen; what is asked of each is in `students`."""

    pairs: Count  # held out, that students are measured on
    best: Count  # choices that are measured as wholes
    rounds: Annotated[int, Field(ge=0, le=8)]  # of the tournament, among 2^rounds of them
    steps: Count  # of each student in a round
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    precision: Precision
    seed: Seed
    students: dict[Entry, Description]


class Prune(Section):
    storage: Storage


class Training(Section):
    """What every training has; the loop reads nothing else."""

    steps: Count
    batch_size: Count  # examples at once, over all processes
    accumulation: Count  # batches a step
    optimizer: Literal["adamw", "adamw-8bit"]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup_steps: Whole
    schedule: Literal["constant", "cosine", "linear"]
    weight_decay: Amount
    clip_norm: Annotated[float, Field(gt=0)]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]  # 0: no EMA
    precision: Precision
    seed: Seed


Decay = Annotated[float, Field(ge=0, lt=1)]


class Learning(Training):
    """What distillation and fine-tuning share."""

    betas: tuple[Decay, Decay]  # AdamW's averages of the gradient and of its square
    eps: Annotated[float, Field(gt=0)]  # AdamW's
    snr_gamma: Annotated[float, Field(gt=0)] | None  # min-SNR weighting by timestep; None: all alike
    noise_offset: Amount
    shuffle_shards: Count | None  # pairs are mixed among so many shards at a time; None: among all
    caption_dropout: Share
    gradient_checkpointing: bool
    evaluate_every: Count
    patience: Count | None  # measurements in a row without a better one, after which training ends; None: never
    storage: Storage


class Terms(Section):
    """Weights of the three terms of distillation."""

    task_weight: Weight
    output_weight: Weight
    feature_weight: Weight

    @field_validator("task_weight", "output_weight", "feature_weight")
    @classmethod
    def _in_order(cls, weight: Weight) -> Weight:
        if isinstance(weight, list):
            shares = [share for share, _ in weight]
            if shares != sorted(set(shares)):
                raise ValueError(f"the shares of the training must increase from point to point, got {shares}")
        return weight

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if not (used(self.task_weight) or used(self.output_weight) or used(self.feature_weight)):
            raise ValueError("task_weight, output_weight and feature_weight are all 0: there is nothing to learn")
        return self


class Phase(Terms):
    """A part of a distillation, an entry of `distill.phases`; completed (see `read_params`)."""

    steps: Count
    teacher: Entry | None  # of section teachers; None: that of section teacher
    plan: Cut | None  # what is left to learn; None: the student's own
    learning_rate: Annotated[float, Field(gt=0)]


class Distill(Learning, Terms):
    """Weights of the three terms as in SD-Small and SD-Tiny (segmind/distill-sd): 1, 0.5, 0.5."""

    phases: list[Phase]  # none: one training of one teacher and one plan
    features: Mode | None  # None: what the student's plan names
    feature_normalisation: Normalisation

    @model_validator(mode="after")
    def _one_after_the_other(self) -> Self:
        if not self.phases:
            return self
        if self.steps != (together := sum(phase.steps for phase in self.phases)):
            raise ValueError(f"steps: {self.steps}, but its phases have {together} together; write steps: {together}")
        shares = [phase.plan for phase in self.phases if isinstance(phase.plan, float)]
        if shares != sorted(shares):
            raise ValueError(f"phases: the share of cuts (plan) must not fall from phase to phase, got {shares}")
        if isinstance(last := self.phases[-1].plan, float) and last < 1:
            raise ValueError(f"phases: the last one makes {last} of the student's cuts; plan: null makes all of them")
        if self.patience is not None:
            raise ValueError("patience: a training in phases has the steps that they name; patience: null")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without phases the section is what it was before there were any: results are known by its digest."""
        return {name: value for name, value in whole(self).items() if name != "phases" or value}


class Lora(Section):
    """Low-rank matrices beside frozen weights (arXiv 2106.09685), by peft."""

    rank: Annotated[int, Field(ge=1, le=2**16)]
    alpha: Annotated[int, Field(ge=1, le=2**16)]  # they count alpha / rank; with rslora alpha / sqrt(rank)
    dropout: Annotated[float, Field(ge=0, lt=1)]  # of what goes into them
    targets: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]  # ends of modules' names
    dora: bool  # direction and magnitude apart (arXiv 2402.09353)
    rslora: bool  # arXiv 2312.03732
    text_encoder: bool  # the text encoders' attention as well
    text_learning_rate: Annotated[float, Field(gt=0)] | None  # None: that of the UNet

    @model_validator(mode="after")
    def _read_by_diffusers(self) -> Self:
        if self.dora and self.text_encoder:
            raise ValueError("dora goes with the UNet alone: stock diffusers does not read a text encoder's magnitudes")
        return self


class DreamBooth(Section):
    """A thing by a few pictures of it, beside pictures of its class, which the model draws (arXiv 2208.12242)."""

    weights: Literal["full", "lora"]
    class_prompts: list[Annotated[str, Field(pattern=r"\S")]]  # what the thing is one of, taking turns
    class_pictures: Count
    prior_weight: Amount  # of those beside the thing's; 0: none are drawn
    inference_steps: Count
    guidance: Annotated[float, Field(ge=1)]
    text_encoder: bool  # learns as the UNet does
    text_learning_rate: Annotated[float, Field(gt=0)] | None  # None: that of the UNet


class Inversion(Section):
    """A word for a thing, of whose embeddings alone the model learns: textual inversion (arXiv 2208.01618)."""

    word: Annotated[str, Field(pattern=r"^\S+$")] | None  # as it stands in the captions
    vectors: Annotated[int, Field(ge=1, le=64)]  # tokens that it gets
    begin: str | None  # a word whose embedding it begins with; None: the mean of its own pieces'


class Own(Section):
    """A set of fine-tuning's own: an entry of `finetune.data`, both parts completed (see `read_params`)."""

    filter: Filter
    encode: Encode


class Base(Section):
    """A model that is no student of this graph, to be tuned as well: an entry of `finetune.base`."""

    model: Teacher  # any student will do
    data: Entry  # of `finetune.data`, encoded with the model's own VAE


class Finetune(Learning):
    students: list[Name] | None  # None: all; the others are passed on as they are
    stage: Literal["distilled", "pruned"]  # of this graph's students, that is tuned
    latents: Annotated[str, Field(min_length=1)]  # the folder that they learn from
    data: dict[Entry, Own]
    base: dict[Entry, Base]
    words: list[str]  # pairs whose caption holds one of these words; none: all pairs
    output_weight: Amount  # the teacher's prediction, beside the data
    rehearsal: Amount  # weight of pairs of the main data, as many beside each batch
    method: Literal["full", "lora", "dreambooth", "inversion"]
    lora: Lora
    dreambooth: DreamBooth
    inversion: Inversion

    @model_validator(mode="after")
    def _of_a_class(self) -> Self:
        if self.prior and not self.dreambooth.class_prompts:
            raise ValueError("dreambooth.class_prompts: [a photo of a dog], for example; prior_weight: 0 does without")
        if self.adapted and self.lora.dora and self.texts_learn:
            raise ValueError("lora.dora goes with the UNet alone, and dreambooth.text_encoder is true")
        return self

    @model_validator(mode="after")
    def _one_text(self) -> Self:
        if self.output_weight and self.texts_learn:
            raise ValueError(
                "output_weight: the teacher cannot read what text encoders that learn (text_encoder: true) say"
            )
        return self

    @model_validator(mode="after")
    def _a_word(self) -> Self:
        if self.method == "inversion" and self.inversion.word is None:
            raise ValueError("inversion.word: the word for the thing as it stands in the captions, sks for example")
        return self

    @property
    def texts_learn(self) -> bool:
        """Whether the text encoders learn too."""
        return self.method == "inversion" or (self._texts is not None and self._texts.text_encoder)

    @property
    def text_learning_rate(self) -> float | None:
        """The text encoders' rate, if it is another than the UNet's."""
        return self._texts.text_learning_rate if self._texts else None

    @property
    def _texts(self) -> Lora | DreamBooth | None:
        """What says so."""
        if self.method == "dreambooth":
            return self.dreambooth
        return self.lora if self.method == "lora" else None

    @property
    def adapted(self) -> bool:
        """Whether matrices beside the weights learn, and not the weights."""
        return self.method == "lora" or (self.method == "dreambooth" and self.dreambooth.weights == "lora")

    @property
    def prior(self) -> float:
        """The weight of class pictures."""
        return self.dreambooth.prior_weight if self.method == "dreambooth" else 0.0

    @property
    def preserved(self) -> dict[str, float]:
        """The weights of what is learned beside the data, by kind, of those that have any."""
        weights = {"prior": self.prior, "rehearsal": self.rehearsal}
        return {kind: weight for kind, weight in weights.items() if weight}


def used(weight: Weight) -> bool:
    """Whether a weight is ever above 0."""
    return any(value for _, value in weight) if isinstance(weight, list) else weight > 0


class Watch(Section):
    """What is looked at while a training runs; nothing here changes what is learned."""

    checkpoint_every: Count  # steps
    picture_every: Count  # steps
    prompts: Count | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]  # of held-out captions
    negative_prompt: str
    steps: Count  # of the sampler
    guidance: Annotated[float, Field(ge=1)]
    size: Pixels | None  # None: the model's own


Bits = Literal["int8", "fp8", "int4"]  # of the weights of a UNet's linear layers


def bits_of(name: str) -> Bits | None:
    """The bits that a model's name ends in, as "sd-tiny/int8"; None where it is of full precision."""
    return next((bits for bits in get_args(Bits) if name.rpartition("/")[2] == bits), None)


class Variant(Section):
    """A way to draw whose cost is measured beside eager drawing of one picture."""

    precision: Precision
    compile: bool  # the UNet's blocks by torch.compile
    channels_last: bool
    batch: Count  # pictures at a time

    @property
    def title(self) -> str:
        """As "bf16 compiled channels-last batch 4", of letters that MLflow allows in a metric's name."""
        how = ["compiled" if self.compile else "eager"] + ["channels-last"] * self.channels_last
        return " ".join([self.precision, *how, f"batch {self.batch}"])


class Backbones(Section):
    """Networks that metrics look through: a local folder or file, or the id of a Hub model that is in the cache."""

    clip: str | None  # folder or id, as transformers has it
    dino: str | None  # folder or id, as transformers has it
    inception: str | None  # file, TorchScript
    vgg: str | None  # file, TorchScript
    aesthetic: str | None  # file, LAION's head on `clip`
    preference: str | None  # folder or id of a CLIP that was trained on preferences
    hpsv2: str | None  # folder or id of another such CLIP
    vqa: str | None  # folder or id of a chat model that sees pictures


class Real(Section):
    """Real pictures that sets of drawn ones are compared with."""

    path: str | None  # folder of them; None: those that passed the filter and whose captions are not drawn
    pictures: Count  # at most


Scheduler = Literal[  # as diffusers calls them
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
        "inference_steps": 25,
        "guidance": 7.5,
        "precision": "fp16",
        "resize": 256,
        "jpeg": True,
    }
}


class Benchmark(Section):
    protocol: Literal["bk-sdm"] | None  # beside whose published figures the report puts its own
    prompts: Count  # at most
    prompts_from: Literal["heldout", "file"]  # held-out captions, chosen by seed, or the first of a file
    prompt_file: Annotated[str, Field(min_length=1)]  # .txt, .jsonl, .csv; a dependency, so it always exists
    negative_prompt: str
    size: Literal["own", "every"] | Pixels  # of pictures: the prompt's pair's, each of the pairs', or a square
    seeds: Count  # pictures a prompt
    noise: Literal[
        "own", "stream"
    ]  # each picture's by its number, or all from one generator, as published protocols do
    scheduler: Scheduler | None  # None: the model's own
    inference_steps: Count
    guidance: Annotated[float, Field(ge=1)]
    batch_size: Count
    latency_rounds: Count
    variants: list[Variant]  # measured by cost beside eager drawing of one picture at a time
    quantised: list[Bits]  # models besides: each student's fine-tuned one with such weights
    metrics: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]]  # of drawn pictures: files of evaluation/metrics
    backbones: Backbones
    real: Real
    resize: Pixels | None  # pictures are squashed to a square of it before they are measured; None: as they are drawn
    jpeg: bool  # pictures go through JPEG before they are measured, as published protocols store them
    precision: Precision
    seed: Seed

    @model_validator(mode="after")
    def _as_published(self) -> Self:
        fixed = PROTOCOLS[self.protocol] if self.protocol else {}
        if other := [f"{name}: {value}" for name, value in fixed.items() if getattr(self, name) != value]:
            raise ValueError(f"protocol {self.protocol} needs {', '.join(other)}; or protocol: null")
        return self

    @property
    def drawing(self) -> dict[str, Any]:
        """How pictures are drawn, as `prunella.sampling.generate` takes it."""
        return {"steps": self.inference_steps, "guidance": self.guidance, "seed": self.seed}


Form = Literal["single-file", "onnx", "int8", "fp8", "int4"]  # that a student leaves in


class Export(Section):
    """What stage `export` writes; none by default."""

    students: list[Name]  # or entries of finetune.base
    to: Annotated[list[Form], Field(min_length=1)]
    dtype: Literal["fp16", "bf16", "fp32"] | None  # None: each form's own


class Gate(Section):
    """What a figure of the benchmark must be for a student to be promoted."""

    figure: Annotated[str, Field(min_length=1)]  # as in reports/benchmark.json
    min: float | None
    max: float | None
    of_teacher: bool  # as a share of the teacher's figure

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"the gate for {self.figure} asks for nothing: give it a min or a max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the gate for {self.figure}: its min {self.min} is above its max {self.max}")
        return self


class Promote(Section):
    """Which student may be served; no stage depends on it."""

    alias: Name
    gates: list[Gate]


class Runtime(Section):
    engine: Literal["local", "ray"]  # of filter, encode, generate: this machine works, or those of a Ray cluster
    device: str  # auto, cpu, cuda, cuda:1, mps
    workers: Whole  # threads that read and decode pictures; 0: one a core
    processes: Count  # of generate, encode, distill and finetune; each has its share of the batch, on a GPU of its own
    threads: Whole  # 0: as torch decides
    compile: Literal["auto"] | bool  # torch.compile; auto: on a GPU
    channels_last: Literal["auto"] | bool  # memory layout of convolutions; auto: on a GPU, unless with fsdp
    fsdp: bool  # weights, gradients and moments of distill and finetune are shared out among the processes
    micro_batch: Literal["auto"] | Count  # examples of a batch that a device trains on at once; auto: as many as fit


class Params(Section):
    seed: Seed
    students: Annotated[list[Name], Field(min_length=1)]
    teacher: Teacher
    teachers: dict[Entry, Teacher]  # further ones, for phases of the distillation
    generate: dict[Entry, Generate]
    filter: Filter
    encode: Encode
    plan: Planning
    prune: Prune
    distill: Distill
    finetune: Finetune
    benchmark: Benchmark
    watch: Watch
    export: Export
    promote: Promote
    runtime: Runtime

    @model_validator(mode="after")
    def _own_data_are_used(self) -> Self:
        """A set that nobody learns from, and a folder that no set makes, are slips."""
        tuning, students = self.finetune, set(self.students)
        for name, base in tuning.base.items():
            if base.data not in tuning.data:
                known = sorted(tuning.data) or ["none"]
                raise ValueError(f"finetune.base.{name}.data: {unknown('entry of finetune.data', base.data, known)}")
            if tuning.rehearsal:
                raise ValueError(
                    f"finetune.rehearsal: {tuning.rehearsal}, but the main data are not encoded for "
                    f"finetune.base.{name}; 0 does without them"
                )
            if name in students:
                raise ValueError(f"finetune.base.{name}: a student of this graph has that name; give it another")
            if name == "teacher":
                raise ValueError("finetune.base.teacher: the teacher's pictures have that name; give it another")
        made = {f"{OWN_DATA}/{name}/latents": name for name in tuning.data}
        places = ", ".join(made) or "finetune.data is empty"
        if tuning.latents not in (MAIN_DATA, *made):  # it stands in a command of dvc.yaml, so nothing else may
            raise ValueError(f"finetune.latents: {tuning.latents} is made by no entry of finetune.data ({places})")
        if made and tuning.latents not in made and not tuning.base:
            raise ValueError(f"finetune.latents: {tuning.latents}, so finetune.data is for nothing; it makes {places}")
        return self

    @model_validator(mode="after")
    def _exported_are_made(self) -> Self:
        made = [*self.students, *self.finetune.base]
        if missing := [name for name in self.export.students if name not in made]:
            raise ValueError(f"export.students: {unknown('student of this graph', missing[0], sorted(made))}")
        return self

    @model_validator(mode="after")
    def _teachers_are_known(self) -> Self:
        for number, phase in enumerate(self.distill.phases):
            if phase.teacher is not None and phase.teacher not in self.teachers:
                known = sorted(self.teachers) or ["none"]
                raise ValueError(
                    f"distill.phases.{number}.teacher: {unknown('entry of teachers', phase.teacher, known)}"
                )
        return self

    @model_validator(mode="after")
    def _words_are_said(self) -> Self:
        """One caption for all of a set's pictures, and none of the words in it: seen before anything is encoded."""
        words = {word.lower() for word in self.finetune.words}
        for name, own in self.finetune.data.items():
            said = own.filter.caption
            if words and said is not None and not words & set(said.lower().split()):
                where = f"the caption of finetune.data.{name} ({said!r})"
                raise ValueError(f"finetune.words: none of {self.finetune.words} is in {where}; [] takes all pairs")
        return self

    @field_validator("students")
    @classmethod
    def _once(cls, students: list[str]) -> list[str]:
        if len(set(students)) < len(students):
            raise ValueError(f"{students} names a student twice")
        return students

    @model_validator(mode="after")
    def _tuned(self) -> Self:
        if others := sorted(set(self.finetune.students or ()) - set(self.students)):
            raise ValueError(f"finetune.students: {others[0]!r} is not among students: {', '.join(self.students)}")
        return self


def named(params: Params) -> list[str]:
    """The students whose plans are there already; the others choose themselves."""
    return [name for name in params.students if name not in params.plan.students]


def untuned(params: Params) -> list[str]:
    """The students that are not fine-tuned but passed on as they are."""
    chosen = params.finetune.students
    return [] if chosen is None else [name for name in params.students if name not in chosen]


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
        content = with_whole_entries(with_defaults(content, shipped_defaults(), filled))
    params = check(Params, content, str(path))
    if filled:
        taken = ", ".join(f"{name}: {value}" for name, value in filled.items())
        print(f"{path}: lacks keys of this version; taken from the shipped defaults: {taken}", file=sys.stderr)
    return params


def with_whole_entries(content: dict) -> dict:
    """`content` with what the entries of its sets, bases, teachers and phases lack."""
    return with_phases(with_own_data(with_generated(content)))


def with_generated(content: dict) -> dict:
    """`content` with entries of `generate` that say where their tars lie, which older ones did not."""
    made = content.get("generate")
    if not isinstance(made, dict):
        return content
    return content | {"generate": _entry(made, {name: {"store": None} for name in made})}


def with_own_data(content: dict) -> dict:
    """`content` with whole entries of `finetune.data` and `finetune.base`.

    What an entry's `filter` or `model` lacks is as shipped, since criteria for millions are none for twenty; what its
    `encode` lacks is as in the section `encode`.
    """
    tuning, shipped = content.get("finetune"), shipped_defaults()
    if not isinstance(tuning, dict):
        return content
    lacking = {"filter": shipped["filter"], "model": shipped["teacher"], "encode": content.get("encode")}
    whole = {key: _entries(tuning.get(key), lacking) for key in ("data", "base")}
    return content | {"finetune": tuning | whole}


def with_phases(content: dict) -> dict:
    """`content` with whole entries of `teachers` and `distill.phases`.

    What a teacher's entry lacks is as shipped. What a phase's lacks is as in the section `distill`, its teacher the
    first and its plan the student's own.
    """
    section, teachers = content.get("distill"), content.get("teachers")
    if isinstance(teachers, dict):
        content = content | {"teachers": _entry(teachers, dict.fromkeys(teachers, shipped_defaults()["teacher"]))}
    if not isinstance(section, dict) or not isinstance(section.get("phases"), list):
        return content
    shared = {name: section[name] for name in ("learning_rate", *Terms.model_fields) if name in section}
    lacking = {"teacher": None, "plan": None} | shared
    phases = [lacking | phase if isinstance(phase, dict) else phase for phase in section["phases"]]
    return content | {"distill": section | {"phases": phases}}


def _entries(entries: Any, lacking: dict[str, Any]) -> Any:
    """Entries by name whose parts get what they lack; what is no entry or part stays as it is, for `check` to name."""
    if not isinstance(entries, dict):
        return entries
    return {name: _entry(entry, lacking) if isinstance(entry, dict) else entry for name, entry in entries.items()}


def _entry(entry: dict, lacking: dict[str, Any]) -> dict:
    both = {key: (part, lacking.get(key)) for key, part in entry.items()}
    return {
        key: with_defaults(part, more, {}) if isinstance(part, dict) and isinstance(more, dict) else part
        for key, (part, more) in both.items()
    }
