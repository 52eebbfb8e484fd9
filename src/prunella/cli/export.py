"""`prunella export`: take a student out of this folder, in the form that another program reads."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prunella.cli.arguments import Commands, add_at, add_command
from prunella.cli.sample import MODEL
from prunella.errors import UserError

if TYPE_CHECKING:
    from prunella.export.formats import ExportResult

OUT = Path("exports")
DTYPE = "of the numbers; single-file: fp16 if not given; onnx: fp32 (or fp16); of fewer bits: bf16, for the others"
# What --to takes, several words where they are alike, and what each gives.
KINDS = {
    ("single-file",): "one safetensors file in the original layout, for ComfyUI and diffusers",
    ("onnx",): "text encoders, UNet and VAE decoder for ONNX Runtime, of any batch and size",
    ("int8", "int4", "fp8"): "weights of the UNet's linear layers by torchao, in a folder for diffusers",
    ("hub",): "a folder with a model card, ready for the Hugging Face Hub",
}


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    export = add_command(commands, "export", "write a student in the form that another program reads", _export)
    export.add_argument("model", help=MODEL)
    about = "; ".join(f"{', '.join(names)}: {gives}" for names, gives in KINDS.items())
    export.add_argument("--to", required=True, choices=[name for names in KINDS for name in names], help=about)
    add_at(export)
    export.add_argument("--out", type=Path, help=f"file or folder (default: in {OUT}/)")
    export.add_argument("--repo", help="hub: owner/name there, which the card's code then loads")
    export.add_argument("--push", action="store_true", help="hub: upload it to --repo, as you are logged in there")
    export.add_argument("--private", action="store_true", help="hub: make the repository private where it is new")
    export.add_argument("--licence", help="hub: of the weights, by the Hub's name (default: the teacher's)")
    export.add_argument("--dtype", choices=["fp16", "bf16", "fp32"], help=DTYPE)


def _export(given: argparse.Namespace) -> None:
    from prunella.pipeline.stage import silence_libraries

    silence_libraries(offline=not given.push)
    if given.push and (given.to != "hub" or not given.repo):
        raise UserError("--push: goes with --to hub and --repo OWNER/NAME")
    from prunella.export.resolve_model import resolve_model

    folder = resolve_model(given.model, given.at)
    if given.to == "hub":
        _hub(given, folder)
        return
    from prunella.export.formats import export_file_name, write_export

    made = write_export(given.to, folder, given.out or OUT / export_file_name(given.to, folder.name), given.dtype)
    {"single-file": _say_single_file, "onnx": _say_onnx}.get(given.to, _say_quantised)(made, folder)


def _say_single_file(made: ExportResult, folder: Path) -> None:
    from prunella.export.compat_check import check_programs
    from prunella.models.weights import read_header
    from prunella.reporting.summary import format_table

    print(f"{made.out}: {made.details['tensors']} tensors, {made.details['bytes'] / 1e6:.1f} MB, {made.dtype}")
    shapes = {name: tuple(entry["shape"]) for name, entry in read_header(made.out).items()}
    velocities = made.details["metadata"]["modelspec.prediction_type"] == "v"
    found = check_programs(shapes, velocities, str(folder))
    print(
        format_table(
            [
                ["program", "takes it"],
                *([each.program, each.detected_as if each.is_supported else "no"] for each in found),
            ]
        )
    )
    print("\n".join(f"{each.program}: {each.note}" for each in found))


def _say_onnx(made: ExportResult, folder: Path) -> None:
    from prunella.export.onnx import REPORT_FILE
    from prunella.reporting.summary import format_table

    head = ["part", "in", "largest difference from torch", "torch, ms", "ONNX, ms"]
    rows = [
        [name, each["dtype"], f"{each['difference']:.1e}", f"{each['torch_ms_p50']:.1f}", f"{each['onnx_ms_p50']:.1f}"]
        for name, each in made.details["parts"].items()
    ]
    print(f"{made.out}: (more in {REPORT_FILE} there)\n{format_table([head, *rows])}")


def _say_quantised(made: ExportResult, folder: Path) -> None:
    from prunella.export.single_file import DTYPES

    told = made.details
    print(
        f"{made.out}: {told['disk_mb']:.1f} MB, {told['disk_mb_before']:.1f} before; UNet {told['unet_mb']:.1f} and "
        f"{told['unet_mb_before']:.1f}, {told['quantised']:.0%} of its parameters in {told['bits']}, the others in "
        f"{made.dtype}\nits output differs from fp32's by {told['difference']:.2%} (root mean square)\n"
        f'load it with torchao installed: from_pretrained("{made.out}", torch_dtype={DTYPES[made.dtype]})'
    )


def _hub(given: argparse.Namespace, folder: Path) -> None:
    from prunella.export.hub import push_to_hub, write_hub_folder

    out = given.out or OUT / f"{folder.name}-hub"
    names = write_hub_folder(folder, out, given.repo, given.licence)
    print(f"{out}: {len(names)} files; read {out / 'README.md'} before you pass it on")
    if given.push:
        print(push_to_hub(out, given.repo, given.private))
