"""Benchmark: the teacher and every student at every stage, measured in one process and reported together."""

import csv
import gc
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from prunella.compute.precision import BITS
from prunella.data.manifest import read_manifest
from prunella.evaluation.cost import latencies, macs, parameters, peak_memory_mb
from prunella.evaluation.drawing import draw, grid
from prunella.evaluation.quality import Fidelity, composition, output_error
from prunella.latents.encoders import open_latents
from prunella.models.pipeline import load_pipeline, load_scheduler, load_unet
from prunella.params import Benchmark
from prunella.pruning.plan import BESIDE, read_plan
from prunella.reporting.diagram import svg
from prunella.reporting.page import page
from prunella.reporting.summary import claims, headline, rows
from prunella.scenes.generator import read_vocabulary
from prunella.training.batch import heldout_batches

STAGES = ("pruned", "distilled", "finetuned")
SHOWN = 8  # pictures in a grid's row


def folders(teacher: Path, models: Path, students: list[str]) -> dict[str, Path]:
    """Every model to measure: "teacher", then "STUDENT/STAGE"."""
    return {"teacher": teacher} | {f"{s}/{stage}": models / stage / s for s in students for stage in STAGES}


def benchmark(
    params: Benchmark,
    seed: int,
    teacher: Path,
    models: Path,
    students: list[str],
    latents: Path,
    manifest: Path,
    curves: Path,
    reports: Path,
    device: str,
    tell: Callable[[str, Image.Image], None],
) -> dict:
    """Measure, write index.html, headline.json and images/ into `reports`, return the report; `tell` is shown grids."""
    _, heldout = open_latents(latents, teacher, device)
    prompts = heldout.captions[: params.prompts]
    source, _ = read_manifest(manifest)
    vocabulary = read_vocabulary(source["path"]) if source["source"] == "scenes" else None
    named = folders(teacher, models, students)
    taught, scheduler = load_unet(teacher, device), load_scheduler(teacher)
    fidelity = Fidelity(load_pipeline(teacher, device, unet=None).vae, heldout, len(prompts))
    drawing = params.drawing

    # Each model by itself: what it needs, how far it is from the teacher, what it draws.
    report, drawn = {}, {}
    for name, folder in tqdm(named.items(), "benchmark", unit="model"):
        unet = load_unet(folder, device)
        batches = heldout_batches(heldout, params.batch_size, scheduler.config.num_train_timesteps)
        entry = {**parameters(unet), **macs(dict(unet.config))}
        entry["output_error"] = output_error(unet, taught, scheduler, batches)
        del unet
        gc.collect()
        entry["peak_memory_mb"] = peak_memory_mb(
            lambda f=folder: list(draw(_loaded(f, device, params), prompts[:1], batch_size=1, **drawing))
        )
        pipeline = _loaded(folder, device, params)
        began = time.perf_counter()
        drawn[name] = list(draw(pipeline, prompts, batch_size=params.batch_size, **drawing))
        entry["images_per_second"] = round(len(prompts) / (time.perf_counter() - began), 3)
        if vocabulary:
            entry |= composition(drawn[name], prompts, vocabulary)
        report[name] = entry | fidelity(drawn[name])

    # Latency belongs to an architecture, so the three stages of a student share it.
    speeds = _latencies(named, device, params, prompts[:1], drawing)
    for name in report:
        report[name] |= speeds[_architecture(name)]

    result = {
        "hardware": _hardware(device),
        "settings": _settings(params, seed, len(prompts), device),
        "models": report,
        **fidelity.floor(),
    }
    images = _write_images(drawn, students, reports / "images", tell)
    lines = {**_curves(curves, students), **_errors(report, students)}
    (reports / "headline.json").write_text(json.dumps(headline(result), indent=1) + "\n")
    tables = [table for table in (rows(result), claims(result)) if table]
    plans = [svg(read_plan(models / "pruned" / student / "unet" / BESIDE)) for student in students]
    (reports / "index.html").write_text(page(result, tables, plans, images, prompts[:SHOWN], lines))
    return result


def _loaded(folder: Path, device: str, params: Benchmark):
    pipeline = load_pipeline(folder, device)
    return pipeline.to(BITS[params.precision]) if params.precision in BITS else pipeline


def _architecture(name: str) -> str:
    return name.partition("/")[0]


def _latencies(
    named: dict[str, Path], device: str, params: Benchmark, prompt: list[str], drawing: dict
) -> dict[str, dict]:
    """Latency of drawing one picture, by architecture, all of them loaded and taken in turns."""
    loaded = {
        _architecture(name): _loaded(folder, device, params)
        for name, folder in named.items()
        if name == "teacher" or name.endswith("distilled")
    }
    calls = {name: (lambda p=p: list(draw(p, prompt, batch_size=1, **drawing))) for name, p in loaded.items()}
    return latencies(calls, params.latency_rounds)


def _hardware(device: str) -> dict:
    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    on_gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "device": on_gpu or device,
        "cpu": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _settings(params: Benchmark, seed: int, prompts: int, device: str) -> dict:
    import diffusers

    return {
        **params.model_dump(),
        "prompts": prompts,
        "split_seed": seed,
        "device": device,
        "scheduler": "the teacher's own",
        "latency": "one picture from text to pixels, VAE included, batch 1; shared by a student's stages",
        "peak_memory": "loading a model and drawing one picture, above what the process held before",
        "compiled": False,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def _write_images(drawn: dict, students: list[str], out: Path, tell: Callable) -> dict[str, str]:
    """A grid per student, the teacher above it; {caption: file relative to the page}."""
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for student in students:
        shown = {"teacher": drawn["teacher"], **{stage: drawn[f"{student}/{stage}"] for stage in STAGES}}
        zoom = max(1, 128 // drawn["teacher"][0].shape[0])
        sheet = grid({name: pictures[:SHOWN] for name, pictures in shown.items()}, zoom)
        sheet.save(out / f"{student}.png")
        tell(student, sheet)
        files[f"{student}: teacher, pruned, distilled, fine-tuned"] = f"{out.name}/{student}.png"
    return files


def _curves(folder: Path, students: list[str]) -> dict[str, dict]:
    """Charts: every held-out term of each student's distillation, and the training losses of both trainings."""
    charts = {}
    for student in students:
        charts[f"{student}: distillation, held-out terms"] = _columns(folder / "distill" / student / "heldout.csv")
    for training in ("distill", "finetune"):
        losses = {s: _columns(folder / training / s / "train.csv").get("loss", []) for s in students}
        charts[f"{training}: training loss"] = losses
    return charts


def _columns(path: Path) -> dict[str, list[tuple[float, float]]]:
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    return {
        name: [(float(row["step"]), float(row[name])) for row in table if row[name]]
        for name in table[0]
        if name != "step"
    }


def _errors(report: dict, students: list[str]) -> dict[str, dict]:
    lines = {s: [(i, report[f"{s}/{stage}"]["output_error"]) for i, stage in enumerate(STAGES)] for s in students}
    return {"output error: pruned (0), distilled (1), fine-tuned (2)": lines}
