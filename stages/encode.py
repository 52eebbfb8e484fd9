"""Encode the chosen pairs with the teacher's VAE and text encoder."""

from prunella.doors import door

with door("encode", __doc__, "teacher", "pairs", "out", "report", section="encode") as it:
    from prunella.encoding import encoded
    from prunella.teachers import pinned_path

    report = encoded(
        it.params.encode, it.params.seed, pinned_path(it.paths.teacher), it.paths.pairs, it.paths.out, it.device
    )
    it.done(f"{report['train']} pairs to train on, {report['heldout']} held out, {report['megabytes']} MB", report)
