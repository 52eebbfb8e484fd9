"""Fréchet distance of drawn from real pictures in the teacher's latents, for large numbers of pictures.

It is biased upwards where pictures are few: 64 real pictures against 64 others give 4.3 ± 0.7 on the default data,
1,000 against 1,000 give 0.29. So it is refused below ten pictures a feature; `latent_kid` has no such bias.
"""

from prunella.evaluation.frechet import A_FEATURE, frechet
from prunella.evaluation.latent_features import latent_features
from prunella.evaluation.metrics.base import Subject
from prunella.evaluation.set_distance import SetMetric, enough


def build(subject: Subject) -> SetMetric:
    space = latent_features(subject)
    fewest = A_FEATURE * max(space.asked.shape[1], space.real.shape[1], 1)
    enough(
        space,
        len(subject.prompts),
        fewest,
        f"{A_FEATURE} a feature (benchmark.prompts, encode.heldout); latent_kid does with fewer",
    )
    return SetMetric(space, frechet, fewest)
