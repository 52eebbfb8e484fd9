"""`prunella sample`: draw a prompt with a student of this graph, or with any pipeline folder."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_at, add_command
from prunella.errors import UserError

MODEL = "a student of this graph, `teacher`, or a diffusers pipeline folder"


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    sample = add_command(commands, "sample", "draw prompts with a student", _sample)
    sample.add_argument("model", help=MODEL)
    sample.add_argument("prompt", nargs="+", help="a picture each")
    add_at(sample)
    sample.add_argument("--negative-prompt", default="", help="what the pictures should not show")
    sample.add_argument("--steps", type=int, help="of the sampler (default: benchmark.num_inference_steps)")
    sample.add_argument("--guidance", type=float, help="default: benchmark.guidance_scale")
    sample.add_argument("--size", type=int, help="pixels (default: the model's own)")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--precision", choices=["fp32", "tf32", "bf16", "fp16"], help="default: benchmark.precision")
    sample.add_argument("--device", default="auto")
    sample.add_argument("--out", type=Path, default=Path("samples"), help="folder (default: samples)")


def _sample(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from PIL import Image

    from prunella.export.resolve_model import model_label, resolve_model
    from prunella.sampling.generate import generate, load_for_inference

    folder, settings = resolve_model(given.model, given.at), _settings(given)
    print(f"{model_label(folder)}: {folder}, {settings['steps']} steps, guidance {settings['guidance']}", flush=True)
    pipeline = load_for_inference(folder, _device(given.device), settings.pop("precision"))
    _check_size(given.size, pipeline.vae_scale_factor)
    given.out.mkdir(parents=True, exist_ok=True)
    drawn = generate(pipeline, given.prompt, seed=given.seed, batch_size=1, size=given.size, **settings)
    for i, picture in enumerate(drawn):
        path = given.out / f"{folder.name}-{given.seed}-{i}.png"
        Image.fromarray(picture).save(path)
        print(path, flush=True)


def _settings(given: argparse.Namespace) -> dict:
    """How to draw: the line's, else the benchmark's of params.yaml here, else the shipped ones."""
    from prunella.params import Benchmark, fill_section, read_params, validate_config

    here = Path("params.yaml")
    usual = (
        read_params(here).benchmark
        if here.is_file()
        else validate_config(Benchmark, fill_section("benchmark", {}), "defaults")
    )
    asked = {"num_inference_steps": given.steps, "guidance_scale": given.guidance, "precision": given.precision}
    asked = {name: value for name, value in asked.items() if value is not None}
    found = validate_config(Benchmark, usual.model_dump() | asked, "sample")
    return {
        "steps": found.num_inference_steps,
        "guidance": found.guidance_scale,
        "precision": found.precision,
        "negative_prompt": given.negative_prompt,
    }


def _device(asked: str) -> str:
    from prunella.compute.device import resolve_device
    from prunella.params import Runtime, fill_section, validate_config

    return resolve_device(validate_config(Runtime, fill_section("runtime", {"device": asked}), "sample"))


def _check_size(size: int | None, factor: int) -> None:
    if size is not None and (size < factor or size % factor):
        raise UserError(f"--size: {size} pixels; a multiple of {factor} is expected, since a latent is that many wide")
