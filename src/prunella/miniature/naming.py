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

THING = ("size", "colour", "shape")


def fields(vocabulary: Vocabulary) -> dict[str, list[str]]:
    """What a caption claims, by the name of each claim; "" stands for "there is none"."""
    words: dict[str, Iterable[str]] = {
        "size": vocabulary.sizes,
        "colour": vocabulary.colours,
        "shape": vocabulary.shapes,
    }
    things = {f"{name} {i}": ["", *words[name]] for i in (1, 2) for name in THING}
    return {"background": list(vocabulary.backgrounds), "relation": ["", *vocabulary.relations], **things}


def answers(scene: Scene, known: dict[str, list[str]]) -> list[int]:
    """The number of the right word for each field."""
    said = {"background": scene.background, "relation": scene.relation or ""}
    for i, thing in enumerate([*scene.objects, SceneObject("", "", "")][:2], 1):
        said |= {f"{name} {i}": getattr(thing, name) for name in THING}
    return [words.index(said[name]) for name, words in known.items()]


class Namer(nn.Module):
    """A text encoder with a linear head for each field."""

    def __init__(self, text: CLIPTextModel, known: dict[str, list[str]]):
        super().__init__()
        self.text = text
        self.heads = nn.ModuleList(nn.Linear(text.config.hidden_size, len(words)) for words in known.values())


class Naming:
    """Mean cross entropy of all heads over every position from the end token on, and the share of right words.

    The padding behind the end token has read the whole caption too and is most of what cross-attention sees.
    Batch: {"tokens" NL, "answers" NF}.
    """

    def __init__(self, end: int):
        self.end = end

    def __call__(self, namer: Namer, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        states = namer.text(batch["tokens"]).last_hidden_state
        after = (batch["tokens"] == self.end).cumsum(1) > 0
        owner = after.nonzero()[:, 0]
        losses, right = [], []
        for head, answer in zip(namer.heads, batch["answers"][owner].T, strict=True):
            scores = head(states[after])
            losses.append(F.cross_entropy(scores, answer))
            right.append((scores.argmax(1) == answer).float().mean())
        return {"loss": torch.stack(losses).mean(), "right": torch.stack(right).mean()}


def batches(vocabulary: Vocabulary, words: CLIPTokenizer, size: int, seed: int) -> Callable[[int], dict[str, Tensor]]:
    """Batches by step of fresh captions in every phrasing; combinations that are never drawn are not named either."""
    known = fields(vocabulary)

    def batch(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([seed, step])
        scenes = [make_scene(vocabulary, rng) for _ in range(size)]
        phrasings = rng.choice(vocabulary.phrasings, size)
        captions = [scene.format_caption(phrasing) for scene, phrasing in zip(scenes, phrasings, strict=True)]
        tokens = words(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return {"tokens": tokens, "answers": torch.tensor([answers(scene, known) for scene in scenes])}

    return batch
