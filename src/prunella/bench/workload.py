"""The workload of `prunella bench train`: a student of a teacher, both of a config alone, and random pairs to learn
from."""

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
from prunella.training.memory_estimate import Example, MemorySpec, choose_micro_batch, memory_per_process

NUM_SAMPLES = 64  # of the random set that is learned from

# The originals' encoders, as far as they shape the networks: the VAE of all, CLIP ViT-L and OpenCLIP's ViT-H and bigG.
VAE_CONFIG = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
TEXT_CONFIGS = {
    768: {"num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    1024: {"num_hidden_layers": 23, "num_attention_heads": 16, "intermediate_size": 4096},
    1280: {"num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120},
}


class Workload(NamedTuple):
    """The timed workload: a student of a teacher with UNet config `teacher`."""

    plan: Plan
    teacher_unet_config: dict
    settings: Distill
    placement: Placement
    resolution: int | None = None  # pixels; None: the teacher's own
    encoders_dir: Path | None = None  # a pipeline folder whose encoders' configs are used; None: the originals'

    @property
    def vae_scale_factor(self) -> int:
        """Pixels of a latent pixel's side."""
        return 2 ** (len(_load_vae_config(self)["block_out_channels"]) - 1)

    @property
    def latent_size(self) -> int:
        """Latent pixels. Raises UserError for a resolution that the VAE and the UNet do not halve evenly."""
        if self.resolution is None:
            return self.teacher_unet_config["sample_size"]
        multiple = self.vae_scale_factor * 2 ** (len(self.teacher_unet_config["down_block_types"]) - 1)
        if self.resolution % multiple:
            raise UserError(f"--resolution: {self.resolution} is no multiple of {multiple}, which this teacher needs")
        return self.resolution // self.vae_scale_factor

    @property
    def student_unet_config(self) -> dict:
        return student_config(self.plan, self.teacher_unet_config)

    @property
    def num_tokens(self) -> int:
        """For a caption: as many as the text encoder has positions."""
        if self.encoders_dir is None:
            return 77
        return CLIPTextConfig.from_pretrained(self.encoders_dir / "text_encoder").max_position_embeddings

    @property
    def example_shapes(self) -> Example:
        return family_of_unet(self.teacher_unet_config).example_shapes(
            self.teacher_unet_config, (self.latent_size, self.latent_size), self.num_tokens
        )

    @property
    def memory_spec(self) -> MemorySpec:
        block_pairs = feature_pairs(self.plan, self.settings.features, self.teacher_unet_config)
        hooked_modules = tuple(pair.student for pair in block_pairs)
        is_gpu = self.placement.device.startswith("cuda")
        return MemorySpec(
            self.student_unet_config,
            self.teacher_unet_config,
            self.example_shapes,
            gpu=is_gpu,
            hooked_modules=hooked_modules,
        )

    @property
    def micro_batch(self) -> int:
        """Examples of a batch in one pass."""
        memory = memory_per_process(torch.device(self.placement.device))
        return choose_micro_batch(self.placement.micro_batch, self.memory_spec, self.settings, memory)

    def count_flops_per_image(self) -> float:
        """For an image: the teacher's forward, the student's forward and twice that for its backward pass."""
        teacher_unet_config, student_unet_config = (
            {**config, "sample_size": self.latent_size}
            for config in (self.teacher_unet_config, self.student_unet_config)
        )
        return 2.0 * count_step_macs(teacher_unet_config, student_unet_config)


def count_step_macs(teacher_unet_config: dict, student_unet_config: dict) -> int:
    """Multiply-accumulates of an example in a step, by UNet configs: backward takes twice the student's own."""
    return count_macs(teacher_unet_config)["macs"] + 3 * count_macs(student_unet_config)["macs"]


def make_distill_settings(**overrides: object) -> Distill:
    """The committed parameters of `distill` at a constant rate and with raw features, as published, with `changes`."""
    published_overrides = {
        "steps": 1,
        "lr_warmup_steps": 0,
        "lr_scheduler": "constant",
        "feature_normalization": "none",
    }
    return validate_config(Distill, load_shipped_defaults()["distill"] | published_overrides | overrides, "bench")


def count_encoder_flops(workload: Workload) -> float:
    """For an image: the VAE's encoder and the text encoders, which the published procedure runs in every step."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        vae = make_random_vae(workload)
        vae.set_attn_processor(AttnProcessor())
        image_size = workload.latent_size * workload.vae_scale_factor
        vae.encode(torch.empty(1, 3, image_size, image_size))
        for text in make_random_text_encoders(workload):
            text(torch.empty(1, workload.num_tokens, dtype=torch.long))
    return float(counter.get_total_flops())


def write_random_latents(workload: Workload, latents_dir: Path) -> None:
    """An encoded folder of random pairs, so that reading and noising are timed as they are."""
    latents_dir.mkdir(parents=True, exist_ok=True)
    shapes, image_size = workload.example_shapes, workload.latent_size * workload.vae_scale_factor
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(NUM_SAMPLES, *shapes["latents"], generator=generator)
    tensors = {
        "mean": latents,
        "std": torch.full_like(latents, 0.1),
        "text": torch.randn(NUM_SAMPLES, *shapes["states"]),
    }
    tensors |= {name: torch.randn(NUM_SAMPLES, *shapes[name]) for name in ("pooled", "sizes") if name in shapes}
    shard = write_shard(latents_dir, "train", 0, (image_size, image_size), ["a caption"] * NUM_SAMPLES, tensors)
    write_manifest(
        latents_dir,
        [shard],
        {name: tensors[name][0] for name in ("text", "pooled") if name in tensors},
        scaling_factor=1.0,
    )


def make_random_unet(unet_config: dict, device: torch.device) -> UNet2DConditionModel:
    with device:
        return UNet2DConditionModel.from_config(unet_config)


def make_random_vae(workload: Workload) -> AutoencoderKL:
    return AutoencoderKL.from_config(strip_private_keys(_load_vae_config(workload)))


def _load_vae_config(workload: Workload) -> dict:
    return AutoencoderKL.load_config(workload.encoders_dir / "vae") if workload.encoders_dir else VAE_CONFIG


def make_random_text_encoders(workload: Workload) -> list[CLIPTextModel]:
    if workload.encoders_dir:
        return [CLIPTextModel(CLIPTextConfig.from_pretrained(workload.encoders_dir / "text_encoder"))]
    widths = (
        (768, 1280)
        if detect_teacher_family(workload.teacher_unet_config) == "sdxl"
        else (workload.teacher_unet_config["cross_attention_dim"],)
    )
    return [CLIPTextModel(CLIPTextConfig(hidden_size=width, **TEXT_CONFIGS[width])) for width in widths]
