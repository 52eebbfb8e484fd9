"""A thing that the scenes never showed, learned from a few pictures: how often it is drawn, and what is forgotten.

The thing is a colour or a shape: a folder holds its pictures and `scenes.yaml`, the vocabulary with its word in it. The
judge looks at pictures of captions that nobody has learned from: new ones with the word, of one object each, and old
ones, the same before and after.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from prunella.compute.device import Placement
from prunella.data.filter import filter_dataset
from prunella.encoding.encode import encoded
from prunella.latents.encoders import reconstructed
from prunella.latents.shards import MANIFEST
from prunella.params import Encode, Filter, Finetune, validate_config
from prunella.params.validation import fill_section
from prunella.sampling.class_images import make_class_latents
from prunella.sampling.generate import generate, load_for_inference
from prunella.scenes.generator import Scene, SceneObject, Vocabulary, make_caption, read_vocabulary, render_scene
from prunella.scenes.judge import judge_image
from prunella.stats import Estimate, estimate_fraction, estimate_paired_difference
from prunella.training.finetune import finetune

WORDS = "scenes.yaml"
SHOWN, ASKED = 1, 2  # series of scenes: those learned from, those judged
BEFORE = "none"  # the method of a model as it came
UNSEEN = 10**6  # the number in the old scenes' series from which on nothing has been learned from


class Case(NamedTuple):
    """What is compared: a student's pipeline folder, the thing's folder, the vocabulary of the old scenes.

    With `adapter` the student draws with that LoRA's file on it. `main`: the latents of the old scenes, for rehearsal.
    With `flip` the thing is learned mirrored too. The tuned pipeline is left in `work`.
    """

    student: Path
    thing: Path
    scenes: Path
    work: Path
    device: str
    adapter: Path | None = None
    main: Path | None = None
    flip: bool = False

    @property
    def words(self) -> Vocabulary:
        """The vocabulary with the thing."""
        return read_vocabulary(self.thing / WORDS)

    @property
    def new(self) -> tuple[str, str]:
        """The word that the old scenes lack, and what it claims: a colour or a shape."""
        old = read_vocabulary(self.scenes)
        colours, shapes = self.words.colours.keys() - old.colours.keys(), set(self.words.shapes) - set(old.shapes)
        (found,) = [(word, "colour") for word in colours] + [(word, "shape") for word in shapes]
        return found


def scenes_of(words: Vocabulary, new: str, series: int, count: int) -> list[tuple[Scene, str, np.random.Generator]]:
    """Scenes of one object of the new colour or shape with their captions, and the chance that draws them."""
    colours = [new] if new in words.colours else list(words.colours)
    shapes = [new] if new in words.shapes else words.shapes
    made = []
    for index in range(count):
        rng = np.random.default_rng([series, index])
        size, colour, shape, ground, phrasing = (
            names[rng.integers(len(names))]
            for names in (list(words.sizes), colours, shapes, list(words.backgrounds), words.phrasings)
        )
        scene = Scene((SceneObject(size, colour, shape),), None, ground)
        made.append((scene, scene.format_caption(phrasing), rng))
    return made


def write_thing(case: Case, count: int) -> None:
    """Pictures of the thing with their captions, as a folder that `filter` reads."""
    lines = []
    for i, (scene, text, rng) in enumerate(scenes_of(case.words, case.new[0], SHOWN, count)):
        Image.fromarray(render_scene(scene, case.words, rng)).save(case.thing / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": text}) + "\n")
    (case.thing / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def measured(case: Case, changes: dict[str, Any], counts: tuple[int, int], steps: int, guidance: float) -> dict:
    """Tune the student as the section `finetune` with `changes` says ({}: not at all) and judge what it draws.

    `counts`: pictures of the thing, and of old scenes. The row: the settings; "thing" and "old", a 0 or 1 a picture;
    "kept", of rendered pictures of the thing that went through the VAE and back: what it loses no training can teach.
    """
    method = changes.get("method", BEFORE) if case.adapter is None else f"carried {case.adapter.name}"
    row: dict[str, Any] = {"student": case.student.name, "method": method, "changes": changes}
    model = case.student
    if changes:
        began = time.perf_counter()
        model, report = _tuned(case, validate_config(Finetune, fill_section("finetune", changes), "finetune"))
        row |= {"seconds": round(time.perf_counter() - began), "steps": report["steps"], "pairs": report["pairs"]}
    word, claim = case.new
    asked = scenes_of(case.words, word, ASKED, counts[0])
    new = [text for _, text, _ in asked]
    old = [make_caption(read_vocabulary(case.scenes), 0, UNSEEN + i) for i in range(counts[1])]
    pipeline = load_for_inference(model, case.device)
    if case.adapter is not None:
        pipeline.load_lora_weights(case.adapter.parent, weight_name=case.adapter.name)
    drawn = list(generate(pipeline, new + old, steps=steps, guidance=guidance, seed=0, batch_size=50))
    row |= {"inference_steps": steps, "guidance": guidance}
    right = [_claims(picture, text, case.words)[claim] for picture, text in zip(drawn, new, strict=False)]
    back = reconstructed(pipeline.vae, np.stack([render_scene(scene, case.words, rng) for scene, _, rng in asked]))
    kept = [_claims(picture, text, case.words)[claim] for picture, text in zip(back, new, strict=True)]
    whole = [_claims(picture, text, case.words) for picture, text in zip(drawn[len(new) :], old, strict=True)]
    judged = {"thing": [int(each) for each in right], "kept": [int(each) for each in kept]}
    return row | judged | {"old": [int(all(each.values())) for each in whole]}


def _claims(picture: np.ndarray, text: str, words: Vocabulary) -> dict[str, bool]:
    claims = judge_image(picture, text, words)
    assert claims is not None  # the captions are the vocabulary's own
    return claims


def _tuned(case: Case, params: Finetune) -> tuple[Path, dict]:
    """The tuned pipeline's folder, and the report."""
    text = "tokens" if params.trains_text_encoder else "embeddings"
    latents, out = case.work / f"latents-{text}", case.work / "tuned" / case.student.name
    if not (latents / MANIFEST).is_file():
        asked = {"source": "folder", "path": str(case.thing), "samples": 1000}
        filter_dataset(validate_config(Filter, fill_section("filter", asked), "filter"), 0, case.work / "pairs")
        settings = validate_config(
            Encode, fill_section("encode", {"heldout": 2, "text": text, "flip": case.flip}), "encode"
        )
        encoded(settings, 0, case.student, case.work / "pairs", latents, case.device)
    report = finetune(
        params,
        teacher=case.student,
        latents=latents,
        main=case.main,
        student=case.student,
        out=out,
        curves=case.work / "curves",
        placement=Placement(case.device),
        checkpoint_every=50,
        draw_class=lambda: make_class_latents(params, case.student, latents, case.device),
    )
    return out, report


def rows(found: Sequence[dict]) -> list[list[str]]:
    """A table, the head first: a row a method, against the same student before, on as many old scenes."""
    table = [["student", "method", "steps", "thing drawn", "old scenes right", "difference to before"]]
    for row in found:
        before = [each for each in found if each["method"] == BEFORE and each["student"] == row["student"]]
        drawn, old = (estimate_fraction(sum(row[key]), len(row[key])) for key in ("thing", "old"))
        tuned = before and row["method"] != BEFORE
        apart = _said(estimate_paired_difference(row["old"], before[0]["old"][: len(row["old"])])) if tuned else "–"
        steps = str(row.get("steps", "–"))
        table.append([row["student"], row["method"], steps, _said(drawn), _said(old), apart])
    return table


def _said(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f}), n = {found.n}"
