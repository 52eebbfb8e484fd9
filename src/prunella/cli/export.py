"""`prunella export`: take a student out of this folder, in the form that another program reads."""

import argparse
from pathlib import Path

from prunella.cli.arguments import Commands, add_at, add_command
from prunella.cli.sample import MODEL
from prunella.errors import UserError

OUT = Path("exports")
LOADED = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}  # as torch calls them
DTYPE = "of the numbers; single-file: fp16 if not given; onnx: fp32 (or fp16); of fewer bits: bf16, for the others"
BITS = ("int8", "int4", "fp8")


def register(commands: Commands) -> None:
    """Add the commands of this group."""
    export = add_command(commands, "export", "write a student in the form that another program reads", _export)
    export.add_argument("model", help=MODEL)
    export.add_argument("--to", required=True, choices=list(KINDS), help="; ".join(filter(None, KINDS.values())))
    add_at(export)
    export.add_argument("--out", type=Path, help=f"file or folder (default: in {OUT}/)")
    export.add_argument("--repo", help="hub: owner/name there, which the card's code then loads")
    export.add_argument("--push", action="store_true", help="hub: upload it to --repo, as you are logged in there")
    export.add_argument("--private", action="store_true", help="hub: make the repository private where it is new")
    export.add_argument("--licence", help="hub: of the weights, by the Hub's name (default: the teacher's)")
    export.add_argument("--dtype", choices=["fp16", "bf16", "fp32"], help=DTYPE)


KINDS = {
    "single-file": "single-file: one safetensors file in the original layout, for ComfyUI and diffusers",
    "onnx": "onnx: text encoders, UNet and VAE decoder for ONNX Runtime, of any batch and size",
    "int8": "int8, int4, fp8: weights of the UNet's linear layers by torchao, in a folder for diffusers",
    "int4": "",
    "fp8": "",
    "hub": "hub: a folder with a model card, ready for the Hugging Face Hub",
}


def _export(given: argparse.Namespace) -> None:
    from prunella.context import quiet

    quiet(offline=not given.push)
    if given.push and (given.to != "hub" or not given.repo):
        raise UserError("--push: goes with --to hub and --repo OWNER/NAME")
    from prunella.export.found import model_folder

    folder = model_folder(given.model, given.at)
    {"single-file": _single_file, "onnx": _onnx, "hub": _hub}.get(given.to, _quantised)(given, folder)


def _single_file(given: argparse.Namespace, folder: Path) -> None:
    from prunella.export.forms import exported_as
    from prunella.export.recognition import verdicts
    from prunella.export.single_file import write_single_file
    from prunella.models.weights import header
    from prunella.reporting.summary import aligned

    out, dtype = given.out or OUT / exported_as("single-file", folder.name), given.dtype or "fp16"
    made = write_single_file(folder, out, dtype)
    print(f"{out}: {made['tensors']} tensors, {made['bytes'] / 1e6:.1f} MB, {dtype}")
    shapes = {name: tuple(entry["shape"]) for name, entry in header(out).items()}
    velocities = made["metadata"]["modelspec.prediction_type"] == "v"
    found = verdicts(shapes, velocities, str(folder))
    print(
        aligned([["program", "takes it"], *([each.program, each.known_as if each.takes else "no"] for each in found)])
    )
    print("\n".join(f"{each.program}: {each.note}" for each in found))


def _onnx(given: argparse.Namespace, folder: Path) -> None:
    from prunella.export.forms import exported_as
    from prunella.export.onnx import NOTES, write_onnx
    from prunella.reporting.summary import aligned

    if given.dtype == "bf16":
        raise UserError("--dtype bf16: ONNX Runtime computes in fp32 or fp16 here; name one of them")
    out = given.out or OUT / exported_as("onnx", folder.name)
    made = write_onnx(folder, out, given.dtype or "fp32")
    head = ["part", "in", "largest difference from torch", "torch, ms", "ONNX, ms"]
    rows = [
        [name, each["dtype"], f"{each['difference']:.1e}", f"{each['torch_ms_p50']:.1f}", f"{each['onnx_ms_p50']:.1f}"]
        for name, each in made["parts"].items()
    ]
    print(f"{out}: (more in {NOTES} there)\n{aligned([head, *rows])}")


def _quantised(given: argparse.Namespace, folder: Path) -> None:
    from prunella.export.forms import exported_as
    from prunella.export.quantised import write_quantised

    out = given.out or OUT / exported_as(given.to, folder.name)
    made = write_quantised(folder, out, given.to, given.dtype or "bf16")
    print(
        f"{out}: {made['disk_mb']:.1f} MB, {made['disk_mb_before']:.1f} before; UNet {made['unet_mb']:.1f} and "
        f"{made['unet_mb_before']:.1f}, {made['quantised']:.0%} of its parameters in {given.to}, the others in "
        f"{made['dtype']}\nits output differs from fp32's by {made['difference']:.2%} (root mean square)\n"
        f'load it with torchao installed: from_pretrained("{out}", torch_dtype=torch.{LOADED[made["dtype"]]})'
    )


def _hub(given: argparse.Namespace, folder: Path) -> None:
    from prunella.export.hub import push, write_hub

    out = given.out or OUT / f"{folder.name}-hub"
    names = write_hub(folder, out, given.repo, given.licence)
    print(f"{out}: {len(names)} files; read {out / 'README.md'} before you pass it on")
    if given.push:
        print(push(out, given.repo, given.private))
