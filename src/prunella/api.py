"""The graph's steps as functions, for notebooks and scripts: without DVC, without MLflow.

Every step writes a folder and is given the folders of those before it. Interrupted work goes on, and what was done
is taken as it is, by `work/` in the folder that Python runs in.
"""

from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline
from PIL import Image

from prunella.compute.device import Placement, make_placement
from prunella.compute.device import resolve_device as device_of
from prunella.data.filter import filter_dataset
from prunella.data.image_checks import load_aesthetic_scorer
from prunella.encoding.encode import encode_dataset
from prunella.errors import UserError
from prunella.models.teacher import describe_pipeline_dir
from prunella.params import Params, Precision, Runtime, fill_section, validate_config
from prunella.pruning.layout import is_student
from prunella.pruning.plan import find_plan
from prunella.pruning.prune import prune_to_folder
from prunella.sampling.generate import generate, load_for_inference
from prunella.training import distill as distilling
from prunella.training import finetune as finetuning
from prunella.training.callback import TrainingCallback

StrPath = Path | str


def encode(params: Params, *, teacher: StrPath, out: StrPath) -> Path:
    """Choose pairs of pictures and captions and encode them with a teacher; the folder of their latents, `out`/latents.

    `params` are those of `parameters` or `read_params`; of them `filter` (which pictures), `encode` (at which size,
    how many are held out), `seed` and `runtime` count. `teacher` is a diffusers pipeline folder of Stable Diffusion
    1.x, 2.x or XL. The stored form of a picture of H × W pixels is the mean and the standard deviation of its latent,
    4 × H/8 × W/8 numbers each, and of a caption the text encoder's L × D numbers; of SDXL the pooled text and the
    picture's size as well.

    Raises UserError where no pair passes, or fewer than are to be held out.
    """
    manifest_dir, latents_dir, workers = Path(out) / "filtered", Path(out) / "latents", params.runtime.workers
    device = device_of(params.runtime)
    score_images = load_aesthetic_scorer(params.filter, lambda: device)
    filter_dataset(params.filter, params.seed, manifest_dir, workers, score_images, resume=True)
    encode_dataset(params.encode, params.seed, _check_teacher_dir(teacher), manifest_dir, latents_dir, device, workers)
    return latents_dir


def prune_folder(params: Params, *, teacher: StrPath, student: str, out: StrPath) -> Path:
    """Build a student and give it the weights of `teacher`, a pipeline folder; write the student's, `out`.

    `student` names a plan, one of `STUDENTS`; `params.prune.storage` is the precision on disk. VAE, text encoders,
    tokenizers and scheduler are the teacher's. The method is BK-SDM's (Kim et al., arXiv 2305.15798): blocks are left
    out, the others keep their weights. `prune` does the same with a UNet in memory.

    Raises UserError for an unknown student, and where the plan is for another family than the teacher's.
    """
    prune_to_folder(params.prune, _check_teacher_dir(teacher), find_plan(student), Path(out))
    return Path(out)


def distill(
    params: Params,
    *,
    teacher: StrPath,
    latents: StrPath,
    student: StrPath,
    out: StrPath,
    observer: TrainingCallback | None = None,
) -> dict:
    """Let a pruned student learn from its teacher; write the pipeline folder `out` and return the training's report.

    `latents` is the folder that `encode` gave for `teacher`, `student` that of `prune_folder`. `params.distill` says
    how: the loss is task_weight · |noise − student|² + output_weight · |teacher − student|² + feature_weight ·
    Σ |teacher's feature − student's|², each a mean over its elements (of predictions 4 × H/8 × W/8), as in BK-SDM
    (Kim et al., arXiv 2305.15798), whose training Segmind's distill-sd follows. Checkpoints are kept every
    `params.watch.checkpoint_every` steps, and a training that was interrupted goes on from the last when it is asked
    for again. Curves lie in `out`-curves, as tables; an `observer` is told the figures meanwhile.

    The report has "steps", "seconds", "images_per_second", "peak_memory_mb", and the last values of each term of the
    loss by name under "train" and, measured on the pairs that are held out, under "heldout".

    Raises UserError where latents and models do not go together, or memory runs out.
    """
    return distilling.distill(
        params.distill,
        teacher=_check_teacher_dir(teacher),
        latents=Path(latents),
        student=Path(student),
        out=Path(out),
        curves=_curves_dir(out),
        placement=_make_placement(params),
        checkpoint_every=params.watch.checkpoint_every,
        observer=observer,
    )


def finetune(
    params: Params,
    *,
    latents: StrPath,
    student: StrPath,
    out: StrPath,
    teacher: StrPath | None = None,
    main: StrPath | None = None,
    observer: TrainingCallback | None = None,
) -> dict:
    """Tune a student to pictures of one kind; write the pipeline folder `out` and return the training's report.

    `params.finetune` says how: the pairs whose caption holds one of `words` ([] for all), by all weights or by LoRA
    (arXiv 2106.09685). `teacher` is needed where it goes on teaching (`output_weight`), `main`, the latents
    that the student was distilled on, where they are learned beside (`rehearsal`). `latents`, `student` and
    `observer` are as for `distill`; the report has "pairs" as well, the number that it learned from. DreamBooth with
    pictures of a class is the graph's alone.

    Raises UserError where no caption holds any of the words, or latents and student do not go together.
    """
    tuning = params.finetune
    if tuning.output_weight and teacher is None:
        raise UserError("finetune.output_weight: the teacher goes on teaching; name its folder as teacher=")
    if tuning.prior_weight:
        raise UserError(
            "finetune.dreambooth.prior_loss_weight: 0 is expected here; `dvc repro` draws the pictures of a class"
        )
    return finetuning.finetune(
        tuning,
        teacher=_check_teacher_dir(teacher) if teacher else Path(student),
        latents=Path(latents),
        replay_latents=Path(main) if main else None,
        student=Path(student),
        out=Path(out),
        curves=_curves_dir(out),
        placement=_make_placement(params),
        checkpoint_every=params.watch.checkpoint_every,
        observer=observer,
    )


def load_student(folder: StrPath, *, device: str = "auto", precision: Precision = "fp32") -> DiffusionPipeline:
    """The pipeline in `folder`, a student's or a teacher's, as diffusers' pipeline, ready to draw.

    The safety checker is left out, since it blackens what freshly pruned models draw; stock
    `DiffusionPipeline.from_pretrained(folder)` has it. `device` is auto, cpu, cuda or cuda:1; `precision` is that of
    the weights, fp32, tf32, bf16 or fp16.

    Raises UserError where the folder holds no pipeline or the device cannot be used.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder}: is no diffusers pipeline folder; it has no model_index.json")
    return load_for_inference(
        folder, device_of(validate_config(Runtime, fill_section("runtime", {"device": device}), "runtime")), precision
    )


def sample(
    model: DiffusionPipeline | StrPath,
    prompts: str | Sequence[str],
    *,
    steps: int = 25,
    guidance: float = 7.5,
    seed: int = 0,
    size: int | None = None,
    negative_prompt: str = "",
) -> list[Image.Image]:
    """A picture of each prompt, drawn by a pipeline or by that of a folder.

    Prompt i of `prompts` starts from noise of number i under `seed`, whatever the `model`: pictures of a teacher and of
    its students can be laid side by side. `size` is in pixels to a side, a multiple of the VAE's factor of 8; None
    takes the model's own. `steps` are the sampler's; `guidance` is that of Ho and Salimans (arXiv 2207.12598), 1 draws
    without; a `negative_prompt` says what pictures should not show.

    Raises UserError for a size that is no such multiple, and as `load_student` does.
    """
    pipeline = model if isinstance(model, DiffusionPipeline) else load_student(model)
    if size is not None and (size < 1 or size % pipeline.vae_scale_factor):
        raise UserError(f"size: {size}; a multiple of {pipeline.vae_scale_factor} pixels is expected")
    prompt_list = [prompts] if isinstance(prompts, str) else list(prompts)
    images = generate(
        pipeline,
        prompt_list,
        seed=seed,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative_prompt,
        size=size,
        batch_size=1,
    )
    return [Image.fromarray(pixels) for pixels in images]


def _check_teacher_dir(folder: StrPath) -> Path:
    """The folder, whose configs are those of a teacher."""
    describe_pipeline_dir(Path(folder), is_student)
    return Path(folder)


def _make_placement(params: Params) -> Placement:
    return make_placement(params.runtime, device_of(params.runtime))


def _curves_dir(out: StrPath) -> Path:
    return Path(f"{out}-curves")
