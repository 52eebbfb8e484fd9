"""`prunella sample`: draw a prompt with a student of this graph, or with any pipeline folder."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_command, add_stage_option
from prunella.errors import UserError

MODEL_HELP = "a student of this graph, `teacher`, or a diffusers pipeline folder"


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    parser = add_command(commands, "sample", "generate images from prompts", _run_sample)
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("prompt", nargs="+", help="one image for each prompt")
    add_stage_option(parser)
    parser.add_argument("--negative-prompt", default="", help="what the images should not show")
    parser.add_argument("--num-inference-steps", type=int, help="default: benchmark.num_inference_steps")
    parser.add_argument("--guidance-scale", type=float, help="default: benchmark.guidance_scale")
    parser.add_argument("--size", type=int, help="pixels (default: the model's own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16", "fp16"], help="default: benchmark.precision")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("samples"), help="folder (default: samples)")


def _run_sample(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries()
    from PIL import Image

    from prunella.export.resolve_model import model_label, resolve_model
    from prunella.sampling.generate import generate, load_for_inference

    model_dir, settings = resolve_model(args.model, args.stage), _resolve_sampling_settings(args)
    print(
        f"{model_label(model_dir)}: {model_dir}, {settings['steps']} steps, guidance {settings['guidance']}", flush=True
    )
    pipeline = load_for_inference(model_dir, _resolve_device(args.device), settings.pop("precision"))
    _check_image_size(args.size, pipeline.vae_scale_factor)
    args.out.mkdir(parents=True, exist_ok=True)
    images = generate(pipeline, args.prompt, seed=args.seed, batch_size=1, size=args.size, **settings)
    for i, image in enumerate(images):
        path = args.out / f"{model_dir.name}-{args.seed}-{i}.png"
        Image.fromarray(image).save(path)
        print(path, flush=True)


def _resolve_sampling_settings(args: argparse.Namespace) -> dict:
    """How to draw: the line's, else the benchmark's of params.yaml here, else the shipped ones."""
    from prunella.params import Benchmark, fill_section, read_params, validate_config

    params_path = Path("params.yaml")
    defaults = (
        read_params(params_path).benchmark
        if params_path.is_file()
        else validate_config(Benchmark, fill_section("benchmark", {}), "defaults")
    )
    overrides = {
        "num_inference_steps": args.num_inference_steps,
        "guidance_scale": args.guidance_scale,
        "precision": args.precision,
    }
    overrides = {name: value for name, value in overrides.items() if value is not None}
    benchmark = validate_config(Benchmark, defaults.model_dump() | overrides, "sample")
    return {
        "steps": benchmark.num_inference_steps,
        "guidance": benchmark.guidance_scale,
        "precision": benchmark.precision,
        "negative_prompt": args.negative_prompt,
    }


def _resolve_device(requested: str) -> str:
    from prunella.compute.device import resolve_device
    from prunella.params import Runtime, fill_section, validate_config

    return resolve_device(validate_config(Runtime, fill_section("runtime", {"device": requested}), "sample"))


def _check_image_size(size: int | None, multiple: int) -> None:
    if size is not None and (size < multiple or size % multiple):
        raise UserError(
            f"--size: {size} pixels; a multiple of {multiple} is expected, since a latent is that many wide"
        )
