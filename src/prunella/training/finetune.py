"""Fine-tuning: a student trains on a narrow domain."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from diffusers import DDPMScheduler, UNet2DConditionModel

from prunella.compute.device import Placement
from prunella.errors import UserError
from prunella.latents.compat import check_compatible
from prunella.latents.encoders import open_latents
from prunella.latents.shards import LatentDataset
from prunella.models.alike import describe_incompatibilities
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Finetune
from prunella.training.callback import TrainingCallback
from prunella.training.data import PRIOR, REHEARSAL
from prunella.training.lora import ATTENTION_LAYERS, add_lora
from prunella.training.losses import TASK, DiffusionLoss, Loss, LossWithAuxiliary, OutputDistillationLoss
from prunella.training.text_encoders import (
    LossOnTokens,
    UNetWithTextEncoders,
    load_with_text_encoders,
    make_parameter_groups,
)
from prunella.training.textual_inversion import PlaceholderToken
from prunella.training.trainer import TrainingJob, open_training_dir, run_job
from prunella.training.validation import TrainingData


def finetune(
    params: Finetune,
    *,
    teacher: Path,
    latents: Path,
    student: Path,
    out: Path,
    curves: Path,
    placement: Placement,
    checkpoint_every: int,
    make_class_images: Callable[[], Path] | None = None,
    replay_latents: Path | None = None,
    observer: TrainingCallback | None = None,
) -> dict:
    """Train the `student` folder on pairs whose caption holds one of `params.words`; write `out`, return the report.

    The `teacher` folder is looked at where it goes on teaching (`output_weight`) alone. `make_class_images` gives the
    folder of encoded class images, which DreamBooth with prior preservation learns too. `replay_latents` are the pairs
    that the student was distilled on, which are replayed with `params.replay_weight`.
    """
    data = _open_training_data(params, latents, student, placement.device)
    if params.output_weight:
        check_compatible(data.train, teacher)
        if reasons := describe_incompatibilities(student, teacher):
            raise UserError(
                f"finetune.output_weight: {teacher} cannot teach {student}: it has {reasons}; 0 learns from the data "
                "alone"
            )
    inputs = [student, latents / "manifest.json", *([teacher / "unet"] if params.output_weight else [])]
    if params.replay_weight and replay_latents is None:
        raise UserError("finetune.replay_weight: there are no main data to learn beside; 0 does without")
    auxiliary_sources = {PRIOR: make_class_images, REHEARSAL: (lambda: replay_latents) if replay_latents else None}
    auxiliary_dirs = {kind: place() for kind in params.auxiliary_weights if (place := auxiliary_sources[kind])}
    inputs += [folder / "manifest.json" for folder in auxiliary_dirs.values()]
    data = data._replace(
        auxiliary={
            kind: _open_auxiliary_latents(params, each, student, placement) for kind, each in auxiliary_dirs.items()
        }
    )
    with open_training_dir("finetune", params, inputs, continuable=params.lr_scheduler == "constant") as work:
        unet = load_unet(student, placement.device)
        teacher_unet = load_unet(teacher, placement.device) if params.output_weight else None
        text_encoder_model = (
            load_with_text_encoders(unet, student, placement.device) if params.trains_text_encoder else None
        )
        placeholder = (
            _make_placeholder(params, text_encoder_model, student, data)
            if text_encoder_model and params.method == "inversion"
            else None
        )
        if params.uses_lora:
            add_lora(unet, params.lora, params.lora.target_modules, params.seed)
            for encoder in text_encoder_model.encoders.values() if text_encoder_model else ():
                add_lora(encoder, params.lora, ATTENTION_LAYERS, params.seed)
        job = TrainingJob(
            title="finetune",
            unet=unet,
            loss=_make_loss(params, load_scheduler(student), teacher_unet),
            text_encoder_model=text_encoder_model,
            uses_lora=params.uses_lora,
            placeholder=placeholder,
            groups=make_parameter_groups(text_encoder_model, params.text_learning_rate)
            if text_encoder_model and not placeholder
            else None,
            teacher=teacher_unet,
            params=params,
            data=data,
            student=student,
            placement=placement,
            monitor=TASK,
            checkpoint_every=checkpoint_every,
        )
        report = run_job(job, out=out, curves=curves, work=work, observer=observer)
    return {**report, "pairs": len(data.train) if data.indices is None else len(data.indices)}


def _open_training_data(params: Finetune, latents: Path, student: Path, device: str) -> TrainingData:
    """The pairs that the words choose. Raises UserError where there are none, or none that the student can take."""
    train, heldout = open_latents(latents, student, device, params.precision, params.trains_text_encoder)
    check_compatible(train, student)
    indices, heldout_indices = (
        find_captions_with(pairs.captions, params.caption_keywords) for pairs in (train, heldout)
    )
    if not len(indices):
        raise UserError(
            f"finetune.caption_keywords: none of {len(train)} captions holds any of {params.caption_keywords}; [] "
            "takes all pairs"
        )
    return TrainingData(train, heldout, indices, heldout_indices)


def _open_auxiliary_latents(params: Finetune, folder: Path, student: Path, placement: Placement) -> LatentDataset:
    """Pairs to learn beside the data. Raises UserError where the student cannot take them."""
    pairs, _ = open_latents(folder, student, placement.device, params.precision, params.trains_text_encoder)
    check_compatible(pairs, student)
    return pairs


def _make_placeholder(
    params: Finetune, text_encoder_model: UNetWithTextEncoders, student: Path, data: TrainingData
) -> PlaceholderToken:
    """The word that is learned, which the data's captions then hold. Raises UserError where none does."""
    inversion_params = params.inversion
    if inversion_params.placeholder_token and not len(
        find_captions_with(data.train.captions, [inversion_params.placeholder_token])
    ):
        raise UserError(
            f"finetune.inversion.placeholder_token: none of {len(data.train)} captions holds "
            f"{inversion_params.placeholder_token!r}"
        )
    placeholder = PlaceholderToken(inversion_params, text_encoder_model, student)
    for pairs in (data.train, data.heldout, *data.auxiliary.values()):
        pairs.texts = placeholder.replace_tokens
    return placeholder


def _make_loss(params: Finetune, scheduler: DDPMScheduler, teacher: UNet2DConditionModel | None) -> Loss:
    """The task; with the teacher's prediction, with text embedded in the step, with the class beside, as asked for."""
    task = DiffusionLoss(scheduler, params.snr_gamma)
    loss: Loss = task if teacher is None else OutputDistillationLoss(task, teacher, params.output_weight)
    if params.trains_text_encoder:
        loss = LossOnTokens(loss)
    return LossWithAuxiliary(loss, params.auxiliary_weights) if params.auxiliary_weights else loss


def find_captions_with(captions: list[str], words: list[str]) -> np.ndarray:
    """Indices of the captions that hold one of `words` as a whole word; of all without words."""
    keywords = {word.lower() for word in words}
    if not keywords:
        return np.arange(len(captions))
    indices = [
        i for i, text in enumerate(captions) if {part.strip(".,;:!?()\"'") for part in text.lower().split()} & keywords
    ]
    return np.array(indices, dtype=int)
