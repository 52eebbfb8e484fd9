"""LAION's aesthetic score, about 1 to 10, by a linear head on the CLIP that it was trained on."""

from collections.abc import Sequence

from PIL import Image

from prunella.data.aesthetic import Aesthetic
from prunella.errors import UserError
from prunella.evaluation.backbones import place
from prunella.evaluation.metrics.base import Images, PerPicture, Subject, Unavailable

NEEDS = ("aesthetic", "clip")  # of benchmark.backbones


def build(subject: Subject) -> PerPicture:
    known = subject.backbones

    def load() -> Aesthetic:
        try:
            return Aesthetic(place(known, "aesthetic"), place(known, "clip"), subject.device)
        except UserError as error:
            raise Unavailable(str(error)) from None

    model = subject.common("aesthetic", load)

    def scores(images: Images, prompts: Sequence[str]) -> list[float]:
        return model([Image.fromarray(image) for image in images])

    return PerPicture(scores)
