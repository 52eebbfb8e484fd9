"""Section `benchmark`."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from prunella.params.fields import ConfigSection, Pixels, PositiveInt, Precision, Seed

QuantizedDtype = Literal["int8", "fp8", "int4"]  # of the weights of a UNet's linear layers


def parse_quantized_dtype(name: str) -> QuantizedDtype | None:
    """The bits that a model's name ends in, as "sd-tiny/int8"; None where it is of full precision."""
    return next((bits for bits in get_args(QuantizedDtype) if name.rpartition("/")[2] == bits), None)


class LatencyVariant(ConfigSection):
    """A way to draw whose cost is measured beside eager drawing of one picture."""

    precision: Precision = Field(description="fp32, tf32, bf16 or fp16.")
    compile: bool = Field(description="Compile the UNet's blocks with torch.compile.")
    channels_last: bool = Field(description="Memory layout of convolutions.")
    batch: PositiveInt = Field(description="Images at a time.")

    @property
    def title(self) -> str:
        """A title like "bf16 compiled channels-last batch 4", of letters that MLflow allows in a metric's name."""
        options = ["compiled" if self.compile else "eager"] + ["channels-last"] * self.channels_last
        return " ".join([self.precision, *options, f"batch {self.batch}"])


class Backbones(ConfigSection):
    """Networks that metrics look through: a local folder or file, or the id of a Hub model that is in the cache."""

    clip: str | None = Field(description="clip_score, clip_similarity, cmmd: openai/clip-vit-large-patch14.")
    dino: str | None = Field(description="dino_similarity: facebook/dinov2-base.")
    inception: str | None = Field(
        description="kid, fid, inception_score, precision, recall: file inception-2015-12-05.pt."
    )
    vgg: str | None = Field(description="lpips: file vgg16.pt.")
    aesthetic: str | None = Field(description="aesthetic: file of the LAION head on `clip`.")
    preference: str | None = Field(description="pick_score: yuvalkirstain/PickScore_v1.")
    hpsv2: str | None = Field(description="hpsv2: adams-story/HPSv2-hf.")
    vqa: str | None = Field(
        description="soft_tifa: Qwen/Qwen3-VL-8B-Instruct, or another image chat model of transformers."
    )


class ReferenceImages(ConfigSection):
    """Real pictures that sets of drawn ones are compared with."""

    path: str | None = Field(
        description="Folder; null: images of data/filtered whose captions are not benchmark prompts."
    )
    max_images: PositiveInt = Field(description="Maximum number of images.")


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
    protocol: Literal["bk-sdm"] | None = Field(
        description="bk-sdm: a published protocol (recipes/coco-30k.yaml); the report then shows its figures beside "
        "ours."
    )
    prompts: PositiveInt = Field(description="Maximum number of prompts.")
    prompts_from: Literal["heldout", "file"] = Field(
        description="heldout: held-out captions, chosen by seed. file: the first lines of prompt_file."
    )
    prompt_file: Annotated[str, Field(min_length=1)] = Field(description=".txt, .jsonl or .csv file of prompts.")
    negative_prompt: str = Field(description="Negative prompt of classifier-free guidance.")
    size: Literal["own", "every"] | Pixels = Field(
        description="own: the size of the prompt's pair. every: each size of the pairs. Or the side of a square in "
        "pixels."
    )
    seeds: PositiveInt = Field(description="Images of each prompt.")
    noise: Literal["own", "stream"] = Field(
        description="own: noise of each image by its number. stream: one generator for all images, as published "
        "protocols do."
    )
    scheduler: SchedulerName | None = Field(
        description="Scheduler class of diffusers, like DDIMScheduler or PNDMScheduler; null: the model's own."
    )
    num_inference_steps: PositiveInt = Field(description="Sampler steps.")
    guidance_scale: Annotated[float, Field(ge=1)] = Field(
        description="Scale of classifier-free guidance; 1 turns it off."
    )
    batch_size: PositiveInt = Field(description="Images at a time.")
    latency_rounds: PositiveInt = Field(description="Timed rounds; the teacher and all students take turns in each.")
    variants: list[LatencyVariant] = Field(
        description="Other ways of inference that stage cost times, like [{precision: bf16, compile: true, "
        "channels_last: true, batch: 4}]."
    )
    quantised: list[QuantizedDtype] = Field(
        description="int8, fp8, int4: also measure each fine-tuned student with quantized weights (torchao)."
    )
    metrics: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]] = Field(
        description="Image metrics: docs/evaluation.md. Most need a backbone."
    )
    backbones: Backbones = Field(
        description="Networks of metrics: a folder, a file, or the id of a cached Hub model. Nothing is downloaded."
    )
    reference_images: ReferenceImages = Field(description="Real images that kid, fid and cmmd compare with.")
    resize: Pixels | None = Field(
        description="Images are resized to a square of this side before they are measured; null: as generated."
    )
    jpeg: bool = Field(description="Compress images as JPEG before they are measured, as published protocols do.")
    precision: Precision = Field(description="fp32, tf32, bf16 or fp16.")
    seed: Seed = Field(description="Seed of prompts and noise.")

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
