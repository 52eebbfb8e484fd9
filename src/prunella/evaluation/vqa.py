"""A model that looks at a picture and answers a question: how probable the right answer is to it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from prunella.evaluation.backbones import load_backbone, load_strict
from prunella.evaluation.metrics.base import MetricContext

ONE_WORD_INSTRUCTION = "Answer in one word."
NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


class VqaModel:
    """A chat model of transformers that sees pictures ("image-text-to-text"), in the number format it is stored in."""

    def __init__(self, model_dir: Path, device: str):
        from transformers import AutoModelForImageTextToText, AutoProcessor

        self.processor = AutoProcessor.from_pretrained(model_dir, local_files_only=True)
        self.model = load_strict(AutoModelForImageTextToText, model_dir, dtype="auto").to(device).eval()

    @torch.inference_mode()
    def answer_probability(self, image: np.ndarray, question: str, answer: str) -> float:
        """Probability that the answer to a question on a picture (HWC uint8) begins with the first token of `answer`.

        However it is written: with a capital, after a space, a number in digits, as GenEval 2 has it.
        """
        message_content = [
            {"type": "image", "image": Image.fromarray(image)},
            {"type": "text", "text": f"{question} {ONE_WORD_INSTRUCTION}"},
        ]
        inputs = self.processor.apply_chat_template(
            [{"role": "user", "content": message_content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
        output = self.model.generate(
            **inputs.to(self.model.device, self.model.dtype),
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        probabilities = output.logits[0][0].double().softmax(-1)
        return float(probabilities[sorted(self._first_tokens(list_spellings(answer)))].sum())

    def _first_tokens(self, texts: Sequence[str]) -> set[int]:
        """For each text; one that is but a space says nothing and is left out."""
        tokenizer = self.processor.tokenizer
        token_ids = {tokenizer.encode(text, add_special_tokens=False)[0] for text in texts}
        return {token for token in token_ids if tokenizer.decode([token]).strip()}


def list_spellings(answer: str) -> list[str]:
    """How an answer may be written: "four", "Four", "4", each also after a space."""
    variants = [answer, answer.lower(), answer.capitalize()]
    variants += [str(NUMBER_WORDS.index(answer))] if answer in NUMBER_WORDS else []
    return [prefix + variant for variant in dict.fromkeys(variants) for prefix in ("", " ")]


def load_vqa_model(context: MetricContext) -> VqaModel:
    """The model of `benchmark.backbones.vqa`."""
    return load_backbone(context, "vqa", VqaModel)
