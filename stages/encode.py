"""Encode the chosen pairs with the teacher's VAE and text encoder."""

from prunella.context import stage_context

with stage_context("encode", __doc__, None, "teacher", "pairs", "out", "report", section="encode", team=True) as it:
    from prunella.latents.encode import encoded
    from prunella.models.pipeline import teacher_folder

    at, teacher, workers = it.paths, teacher_folder(it.paths.teacher), it.params.runtime.workers
    report = encoded(it.params.encode, it.params.seed, teacher, at.pairs, at.out, it.device, workers)
    if it.first:
        said = f"{report['train']} pairs to train on, {report['heldout']} held out, {report['megabytes']} MB"
        it.done(f"{said}, captions cut: {report['captions_cut']}", report)
