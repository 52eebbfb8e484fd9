"""A model that looks at a picture and answers a question: how probable the right answer is to it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from prunella.evaluation.backbones import loaded, whole
from prunella.evaluation.metrics.base import Subject

SHORT = "Answer in one word."
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class Answers:
    """A chat model of transformers that sees pictures ("image-text-to-text"), in the number format it is stored in."""

    def __init__(self, folder: Path, device: str):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.model = whole(AutoModelForImageTextToText, folder, dtype="auto").to(device).eval()

    @torch.inference_mode()
    def probability(self, image: np.ndarray, question: str, answer: str) -> float:
        """That the answer to a question on a picture (HWC uint8) begins with the first token of `answer`.

        However it is written: with a capital, after a space, a number in digits, as GenEval 2 has it.
        """
        asked = [{"type": "image", "image": Image.fromarray(image)}, {"type": "text", "text": f"{question} {SHORT}"}]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": asked}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        told = self.model.generate(
            **inputs.to(self.model.device, self.model.dtype),
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        shares = told.logits[0][0].double().softmax(-1)
        return float(shares[sorted(self._first_tokens(spellings(answer)))].sum())

    def _first_tokens(self, texts: Sequence[str]) -> set[int]:
        """Of each text; one that is but a space says nothing and is left out."""
        words = self.processor.tokenizer
        first = {words.encode(text, add_special_tokens=False)[0] for text in texts}
        return {token for token in first if words.decode([token]).strip()}


def spellings(answer: str) -> list[str]:
    """How an answer may be written: "four", "Four", "4", each also after a space."""
    forms = [answer, answer.lower(), answer.capitalize()]
    forms += [str(NUMBERS.index(answer))] if answer in NUMBERS else []
    return [before + form for form in dict.fromkeys(forms) for before in ("", " ")]


def answers(subject: Subject) -> Answers:
    """The model of `benchmark.backbones.vqa`."""
    return loaded(subject, "vqa", Answers)
