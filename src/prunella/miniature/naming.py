"""Teach the text encoder to name what a caption says, before the UNet learns to draw it.

Eight heads read the scene's words (background, relation, each thing's size, colour, shape) off the states of the
text encoder. It takes a minute, since no picture is involved; the UNet then finds the words' meanings laid out
linearly, where training both together left the shapes unlearnt longest. The heads are thrown away.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from prunella.scenes.generator import Scene, SceneObject, Vocabulary, make_scene

OBJECT_FIELDS = ("size", "colour", "shape")


def list_claim_fields(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """The claims of a caption, by the name of each claim; "" stands for "there is none"."""
    words_by_field: dict[str, Iterable[str]] = {
        "size": vocabulary.sizes,
        "colour": vocabulary.colours,
        "shape": vocabulary.shapes,
    }
    object_claims = {f"{name} {i}": ["", *words_by_field[name]] for i in (1, 2) for name in OBJECT_FIELDS}
    return {"background": list(vocabulary.backgrounds), "relation": ["", *vocabulary.relations], **object_claims}


def label_scene(scene: Scene, claim_fields: dict[str, list[str]]) -> list[int]:
    """The number of the right word for each field."""
    claims = {"background": scene.background, "relation": scene.relation or ""}
    for i, scene_object in enumerate([*scene.objects, SceneObject("", "", "")][:2], 1):
        claims |= {f"{name} {i}": getattr(scene_object, name) for name in OBJECT_FIELDS}
    return [options.index(claims[name]) for name, options in claim_fields.items()]


class ClaimClassifier(nn.Module):
    """A text encoder with a linear head for each field."""

    def __init__(self, text_encoder: CLIPTextModel, claim_fields: dict[str, list[str]]):
        super().__init__()
        self.text = text_encoder
        self.heads = nn.ModuleList(
            nn.Linear(text_encoder.config.hidden_size, len(options)) for options in claim_fields.values()
        )


class ClaimClassificationLoss:
    """Mean cross entropy of all heads over every position from the end token on, and the share of right words.

    The padding behind the end token has read the whole caption too and is most of what cross-attention sees.
    Batch: {"tokens" NL, "answers" NF}.
    """

    def __init__(self, end_token_id: int):
        self.end_token_id = end_token_id

    def __call__(self, classifier: ClaimClassifier, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        hidden_states = classifier.text(batch["tokens"]).last_hidden_state
        is_after_end = (batch["tokens"] == self.end_token_id).cumsum(1) > 0
        sample_indices = is_after_end.nonzero()[:, 0]
        losses, accuracies = [], []
        for head, labels in zip(classifier.heads, batch["answers"][sample_indices].T, strict=True):
            logits = head(hidden_states[is_after_end])
            losses.append(F.cross_entropy(logits, labels))
            accuracies.append((logits.argmax(1) == labels).float().mean())
        return {"loss": torch.stack(losses).mean(), "right": torch.stack(accuracies).mean()}


def make_naming_batches(
    vocabulary: Vocabulary, tokenizer: CLIPTokenizer, batch_size: int, seed: int
) -> Callable[[int], dict[str, Tensor]]:
    """Batches by step of fresh captions in every phrasing; combinations that are never drawn are not named either."""
    claim_fields = list_claim_fields(vocabulary)

    def make_batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step])
        scenes = [make_scene(vocabulary, rng) for _ in range(batch_size)]
        phrasings = rng.choice(vocabulary.phrasings, batch_size)
        captions = [scene.format_caption(phrasing) for scene, phrasing in zip(scenes, phrasings, strict=True)]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return {"tokens": tokens, "answers": torch.tensor([label_scene(scene, claim_fields) for scene in scenes])}

    return make_batch
