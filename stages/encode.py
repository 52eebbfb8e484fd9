"""Encode the chosen pairs with the teacher's VAE and text encoder."""

from prunella.doors import door

with door("encode", __doc__, "teacher", "pairs", "out", "report", section="encode", team=True) as it:
    from prunella.encoding import encoded
    from prunella.teachers import pinned_path

    at, teacher, workers = it.paths, pinned_path(it.paths.teacher), it.params.runtime.workers
    report = encoded(it.params.encode, it.params.seed, teacher, at.pairs, at.out, it.device, workers)
    if it.first:
        said = f"{report['train']} pairs to train on, {report['heldout']} held out, {report['megabytes']} MB"
        it.done(f"{said}, captions cut: {report['captions_cut']}", report)
