"""What `prunella bench train` times: a student of a teacher, both of a config alone, and random pairs to learn from."""

from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from prunella.compute.device import Placement
from prunella.errors import UserError
from prunella.latents.shards import write_manifest, write_shard
from prunella.models.families import detect_teacher_family, family_of_unet, strip_private_keys
from prunella.params import Distill, load_shipped_defaults, validate_config
from prunella.profiling.cost import count_macs
from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import Plan
from prunella.training.memory_estimate import Example, Subject, examples_at_once, memory_of

PAIRS = 64  # of the random set that is learned from

# The originals' encoders, as far as they shape the networks: the VAE of all, CLIP ViT-L and OpenCLIP's ViT-H and bigG.
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TEXT = {
    768: {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    1024: {"num_hidden_layers": 23, "num_attention_heads": 16, "intermediate_size": 4096},
    1280: {"num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120},
}


class Workload(NamedTuple):
    """What is timed: a student of a teacher with UNet config `teacher`."""

    plan: Plan
    teacher: dict
    settings: Distill
    place: Placement
    resolution: int | None = None  # pixels; None: the teacher's own
    encoders: Path | None = None  # a pipeline folder whose encoders' configs are used; None: the originals'

    @property
    def factor(self) -> int:
        """Pixels of a latent pixel's side."""
        return 2 ** (len(_vae_config(self)["block_out_channels"]) - 1)

    @property
    def side(self) -> int:
        """Latent pixels. Raises UserError for a resolution that the VAE and the UNet do not halve evenly."""
        if self.resolution is None:
            return self.teacher["sample_size"]
        multiple = self.factor * 2 ** (len(self.teacher["down_block_types"]) - 1)
        if self.resolution % multiple:
            raise UserError(f"--resolution: {self.resolution} is no multiple of {multiple}, which this teacher needs")
        return self.resolution // self.factor

    @property
    def student(self) -> dict:
        return student_config(self.plan, self.teacher)

    @property
    def tokens(self) -> int:
        """Of a caption: as many as the text encoder has positions."""
        if self.encoders is None:
            return 77
        return CLIPTextConfig.from_pretrained(self.encoders / "text_encoder").max_position_embeddings

    @property
    def example(self) -> Example:
        return family_of_unet(self.teacher).example_shapes(self.teacher, (self.side, self.side), self.tokens)

    @property
    def subject(self) -> Subject:
        pairs = feature_pairs(self.plan, self.settings.features, self.teacher)
        hooked = tuple(pair.student for pair in pairs)
        gpu = self.place.device.startswith("cuda")
        return Subject(self.student, self.teacher, self.example, gpu=gpu, hooked=hooked)

    @property
    def at_once(self) -> int:
        """Examples of a batch in one pass."""
        memory = memory_of(torch.device(self.place.device))
        return examples_at_once(self.place.micro_batch, self.subject, self.settings, memory)

    def flops(self) -> float:
        """Of an image: the teacher's forward, the student's forward and twice that for its backward pass."""
        teacher, student = ({**config, "sample_size": self.side} for config in (self.teacher, self.student))
        return 2.0 * step_macs(teacher, student)


def step_macs(teacher: dict, student: dict) -> int:
    """Multiply-accumulates of an example in a step, by UNet configs: backward takes twice the student's own."""
    return count_macs(teacher)["macs"] + 3 * count_macs(student)["macs"]


def settings(**changes: object) -> Distill:
    """The committed parameters of `distill` at a constant rate and with raw features, as published, with `changes`."""
    published = {"steps": 1, "lr_warmup_steps": 0, "lr_scheduler": "constant", "feature_normalization": "none"}
    return validate_config(Distill, load_shipped_defaults()["distill"] | published | changes, "bench")


def encoder_flops(case: Workload) -> float:
    """Of an image: the VAE's encoder and the text encoders, which the published procedure runs in every step."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae = random_vae(case)
        vae.set_attn_processor(AttnProcessor())
        side = case.side * case.factor
        vae.encode(torch.empty(1, 3, side, side))
        for text in random_texts(case):
            text(torch.empty(1, case.tokens, dtype=torch.long))
    return float(counter.get_total_flops())


def random_pairs(case: Workload, folder: Path) -> None:
    """An encoded folder of random pairs, so that reading and noising are timed as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes, side = case.example, case.side * case.factor
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(PAIRS, *shapes["latents"], generator=source)
    rows = {"mean": latents, "std": torch.full_like(latents, 0.1), "text": torch.randn(PAIRS, *shapes["states"])}
    rows |= {name: torch.randn(PAIRS, *shapes[name]) for name in ("pooled", "sizes") if name in shapes}
    shard = write_shard(folder, "train", 0, (side, side), ["a caption"] * PAIRS, rows)
    write_manifest(
        folder, [shard], {name: rows[name][0] for name in ("text", "pooled") if name in rows}, scaling_factor=1.0
    )


def random_unet(config: dict, device: torch.device) -> UNet2DConditionModel:
    with device:
        return UNet2DConditionModel.from_config(config)


def random_vae(case: Workload) -> AutoencoderKL:
    return AutoencoderKL.from_config(strip_private_keys(_vae_config(case)))


def _vae_config(case: Workload) -> dict:
    return AutoencoderKL.load_config(case.encoders / "vae") if case.encoders else VAE


def random_texts(case: Workload) -> list[CLIPTextModel]:
    if case.encoders:
        return [CLIPTextModel(CLIPTextConfig.from_pretrained(case.encoders / "text_encoder"))]
    widths = (768, 1280) if detect_teacher_family(case.teacher) == "sdxl" else (case.teacher["cross_attention_dim"],)
    return [CLIPTextModel(CLIPTextConfig(hidden_size=width, **TEXT[width])) for width in widths]
