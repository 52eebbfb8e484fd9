"""`prunella export`: take a student out of this folder, in the form that another program reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prunella.cli.arguments import Commands, add_command, add_stage_option
from prunella.cli.sample import MODEL_HELP
from prunella.errors import UserError

if TYPE_CHECKING:
    from prunella.export.formats import ExportResult

EXPORTS_DIR = Path("exports")
DTYPE_HELP = "of the numbers; single-file: fp16 if not given; onnx: fp32 (or fp16); of fewer bits: bf16, for the others"
# What --to takes, several words where they are alike, and what each gives.
FORMAT_DESCRIPTIONS = {
    ("single-file",): "one safetensors file in the original layout, for ComfyUI and diffusers",
    ("onnx",): "text encoders, UNet and VAE decoder for ONNX Runtime, of any batch and size",
    ("int8", "int4", "fp8"): "weights of the UNet's linear layers by torchao, in a folder for diffusers",
    ("hub",): "a folder with a model card, ready for the Hugging Face Hub",
}


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    parser = add_command(commands, "export", "write a student in another program's format", _run_export)
    parser.add_argument("model", help=MODEL_HELP)
    format_help = "; ".join(f"{', '.join(names)}: {description}" for names, description in FORMAT_DESCRIPTIONS.items())
    parser.add_argument(
        "--to", required=True, choices=[name for names in FORMAT_DESCRIPTIONS for name in names], help=format_help
    )
    add_stage_option(parser)
    parser.add_argument("--out", type=Path, help=f"file or folder (default: in {EXPORTS_DIR}/)")
    parser.add_argument("--repo", help="hub: owner/name there, which the card's code then loads")
    parser.add_argument("--push", action="store_true", help="hub: upload it to --repo, as you are logged in there")
    parser.add_argument("--private", action="store_true", help="hub: make the repository private where it is new")
    parser.add_argument("--licence", help="hub: of the weights, by the Hub's name (default: the teacher's)")
    parser.add_argument("--dtype", choices=["fp16", "bf16", "fp32"], help=DTYPE_HELP)


def _run_export(args: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries(offline=not args.push)
    if args.push and (args.to != "hub" or not args.repo):
        raise UserError("--push: goes with --to hub and --repo OWNER/NAME")
    from prunella.export.resolve_model import resolve_model

    model_dir = resolve_model(args.model, args.stage)
    if args.to == "hub":
        _export_to_hub(args, model_dir)
        return
    from prunella.export.formats import export_file_name, write_export

    result = write_export(
        args.to, model_dir, args.out or EXPORTS_DIR / export_file_name(args.to, model_dir.name), args.dtype
    )
    {"single-file": _print_single_file_result, "onnx": _print_onnx_result}.get(args.to, _print_quantized_result)(
        result, model_dir
    )


def _print_single_file_result(result: ExportResult, model_dir: Path) -> None:
    from prunella.export.compat_check import check_programs
    from prunella.models.weights import read_header
    from prunella.reporting.summary import format_table

    print(f"{result.out}: {result.details['tensors']} tensors, {result.details['bytes'] / 1e6:.1f} MB, {result.dtype}")
    shapes = {name: tuple(entry["shape"]) for name, entry in read_header(result.out).items()}
    predicts_velocity = result.details["metadata"]["modelspec.prediction_type"] == "v"
    compatibilities = check_programs(shapes, predicts_velocity, str(model_dir))
    print(
        format_table(
            [
                ["program", "takes it"],
                *(
                    [compatibility.program, compatibility.detected_as if compatibility.is_supported else "no"]
                    for compatibility in compatibilities
                ),
            ]
        )
    )
    print("\n".join(f"{compatibility.program}: {compatibility.note}" for compatibility in compatibilities))


def _print_onnx_result(result: ExportResult, model_dir: Path) -> None:
    from prunella.export.onnx import REPORT_FILE
    from prunella.reporting.summary import format_table

    head = ["part", "in", "largest difference from torch", "torch, ms", "ONNX, ms"]
    rows = [
        [
            name,
            metrics["dtype"],
            f"{metrics['difference']:.1e}",
            f"{metrics['torch_ms_p50']:.1f}",
            f"{metrics['onnx_ms_p50']:.1f}",
        ]
        for name, metrics in result.details["parts"].items()
    ]
    print(f"{result.out}: (more in {REPORT_FILE} there)\n{format_table([head, *rows])}")


def _print_quantized_result(result: ExportResult, model_dir: Path) -> None:
    from prunella.export.single_file import DTYPES

    details = result.details
    print(
        f"{result.out}: {details['disk_mb']:.1f} MB, {details['disk_mb_before']:.1f} before; UNet "
        f"{details['unet_mb']:.1f} and "
        f"{details['unet_mb_before']:.1f}, {details['quantised']:.0%} of its parameters in {details['bits']}, the "
        f"others in "
        f"{result.dtype}\nits output differs from fp32's by {details['difference']:.2%} (root mean square)\n"
        f'load it with torchao installed: from_pretrained("{result.out}", torch_dtype={DTYPES[result.dtype]})'
    )


def _export_to_hub(args: argparse.Namespace, model_dir: Path) -> None:
    from prunella.export.hub import push_to_hub, write_hub_folder

    out_dir = args.out or EXPORTS_DIR / f"{model_dir.name}-hub"
    file_names = write_hub_folder(model_dir, out_dir, args.repo, args.licence)
    print(f"{out_dir}: {len(file_names)} files; read {out_dir / 'README.md'} before you pass it on")
    if args.push:
        print(push_to_hub(out_dir, args.repo, args.private))
