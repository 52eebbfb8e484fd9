"""Fine-tuning: a student trains on a narrow domain."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from diffusers import DDPMScheduler, UNet2DConditionModel

from prunella.compute.device import Placement
from prunella.errors import UserError
from prunella.latents.compat import check_fit
from prunella.latents.encoders import open_latents
from prunella.latents.shards import Latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Finetune
from prunella.training.callback import Observer
from prunella.training.data import PRIOR, REHEARSAL
from prunella.training.lora import ATTENTION, put_on
from prunella.training.losses import TASK, Loss, Preserving, Task, Taught
from prunella.training.text_encoders import Speaking, Spoken, rates, speaking
from prunella.training.textual_inversion import Word
from prunella.training.trainer import TrainingJob, run_job, state_folder
from prunella.training.validation import Data


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
    draw_class: Callable[[], Path] | None = None,
    main: Path | None = None,
    observer: Observer | None = None,
) -> dict:
    """Train the `student` folder on pairs whose caption holds one of `params.words`; write `out`, return the report.

    The `teacher` folder is looked at where it goes on teaching (`output_weight`) alone. `draw_class` gives the folder
    of encoded pictures of the class, which DreamBooth with a prior learns beside. `main` are the pairs that the student
    was distilled on, which are learned beside with `params.rehearsal`.
    """
    data = _data(params, latents, student, placement.device)
    if params.output_weight:
        check_fit(data.train, teacher)
    inputs = [student, latents / "manifest.json", *([teacher / "unet"] if params.output_weight else [])]
    if params.replay_weight and main is None:
        raise UserError("finetune.replay_weight: there are no main data to learn beside; 0 does without")
    places = {PRIOR: draw_class, REHEARSAL: (lambda: main) if main else None}
    folders = {kind: place() for kind in params.auxiliary_weights if (place := places[kind])}
    inputs += [folder / "manifest.json" for folder in folders.values()]
    data = data._replace(beside={kind: _beside(params, each, student, placement) for kind, each in folders.items()})
    with state_folder("finetune", params, inputs, continuable=params.lr_scheduler == "constant") as work:
        unet = load_unet(student, placement.device)
        taught_by = load_unet(teacher, placement.device) if params.output_weight else None
        speaks = speaking(unet, student, placement.device) if params.trains_text_encoder else None
        word = _word(params, speaks, student, data) if speaks and params.method == "inversion" else None
        if params.uses_lora:
            put_on(unet, params.lora, params.lora.target_modules, params.seed)
            for encoder in speaks.encoders.values() if speaks else ():
                put_on(encoder, params.lora, ATTENTION, params.seed)
        job = TrainingJob(
            title="finetune",
            unet=unet,
            loss=_loss(params, load_scheduler(student), taught_by),
            speaking=speaks,
            adapted=params.uses_lora,
            word=word,
            groups=rates(speaks, params.text_learning_rate) if speaks and not word else None,
            teacher=taught_by,
            params=params,
            data=data,
            student=student,
            placement=placement,
            decided_by=TASK,
            checkpoint_every=checkpoint_every,
        )
        report = run_job(job, out=out, curves=curves, work=work, observer=observer)
    return {**report, "pairs": len(data.train) if data.among is None else len(data.among)}


def _data(params: Finetune, latents: Path, student: Path, device: str) -> Data:
    """The pairs that the words choose. Raises UserError where there are none, or none that the student can take."""
    train, heldout = open_latents(latents, student, device, params.precision, params.trains_text_encoder)
    check_fit(train, student)
    among, heldout_among = (caption_contains(pairs.captions, params.caption_keywords) for pairs in (train, heldout))
    if not len(among):
        raise UserError(
            f"finetune.caption_keywords: none of {len(train)} captions holds any of {params.caption_keywords}; [] "
            "takes all pairs"
        )
    return Data(train, heldout, among, heldout_among)


def _beside(params: Finetune, folder: Path, student: Path, placement: Placement) -> Latents:
    """Pairs to learn beside the data. Raises UserError where the student cannot take them."""
    pairs, _ = open_latents(folder, student, placement.device, params.precision, params.trains_text_encoder)
    check_fit(pairs, student)
    return pairs


def _word(params: Finetune, speaks: Speaking, student: Path, data: Data) -> Word:
    """The word that is learned, which the data's captions then hold. Raises UserError where none does."""
    asked = params.inversion
    if asked.placeholder_token and not len(caption_contains(data.train.captions, [asked.placeholder_token])):
        raise UserError(
            f"finetune.inversion.placeholder_token: none of {len(data.train)} captions holds "
            f"{asked.placeholder_token!r}"
        )
    word = Word(asked, speaks, student)
    for pairs in (data.train, data.heldout, *data.beside.values()):
        pairs.texts = word.told
    return word


def _loss(params: Finetune, scheduler: DDPMScheduler, teacher: UNet2DConditionModel | None) -> Loss:
    """The task; with the teacher's prediction, with text embedded in the step, with the class beside, as asked for."""
    task = Task(scheduler, params.snr_gamma)
    loss: Loss = task if teacher is None else Taught(task, teacher, params.output_weight)
    if params.trains_text_encoder:
        loss = Spoken(loss)
    return Preserving(loss, params.auxiliary_weights) if params.auxiliary_weights else loss


def caption_contains(captions: list[str], words: list[str]) -> np.ndarray:
    """Indices of the captions that hold one of `words` as a whole word; of all without words."""
    wanted = {word.lower() for word in words}
    if not wanted:
        return np.arange(len(captions))
    found = [
        i for i, text in enumerate(captions) if {part.strip(".,;:!?()\"'") for part in text.lower().split()} & wanted
    ]
    return np.array(found, dtype=int)
