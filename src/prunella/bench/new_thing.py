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
from prunella.encoding.encode import encode_dataset
from prunella.latents.encoders import reconstruct_images
from prunella.latents.shards import MANIFEST
from prunella.params import Encode, Filter, Finetune, validate_config
from prunella.params.validation import fill_section
from prunella.sampling.class_images import make_class_latents
from prunella.sampling.generate import generate, load_for_inference
from prunella.scenes.generator import Scene, SceneObject, Vocabulary, make_caption, read_vocabulary, render_scene
from prunella.scenes.judge import judge_image
from prunella.stats import Estimate, estimate_fraction, estimate_paired_difference
from prunella.training.finetune import finetune

VOCABULARY_FILE = "scenes.yaml"
TRAINING_SERIES, TEST_SERIES = 1, 2  # series of scenes: those learned from, those judged
BASELINE_METHOD = "none"  # the method of a model as it came
FIRST_UNSEEN_INDEX = 10**6  # the number in the old scenes' series from which on nothing has been learned from


class SubjectCase(NamedTuple):
    """The comparison: a student's pipeline folder, the thing's folder, the vocabulary of the old scenes.

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
    def vocabulary(self) -> Vocabulary:
        """The vocabulary with the thing."""
        return read_vocabulary(self.thing / VOCABULARY_FILE)

    @property
    def subject_claim(self) -> tuple[str, str]:
        """The word that the old scenes lack, and what it claims: a colour or a shape."""
        old_vocabulary = read_vocabulary(self.scenes)
        new_colors, new_shapes = (
            self.vocabulary.colours.keys() - old_vocabulary.colours.keys(),
            set(self.vocabulary.shapes) - set(old_vocabulary.shapes),
        )
        (claim,) = [(word, "colour") for word in new_colors] + [(word, "shape") for word in new_shapes]
        return claim


def make_subject_scenes(
    vocabulary: Vocabulary, subject_word: str, series: int, count: int
) -> list[tuple[Scene, str, np.random.Generator]]:
    """Scenes of one object of the new colour or shape with their captions, and the chance that draws them."""
    colors = [subject_word] if subject_word in vocabulary.colours else list(vocabulary.colours)
    shapes = [subject_word] if subject_word in vocabulary.shapes else vocabulary.shapes
    scenes = []
    for index in range(count):
        rng = np.random.default_rng([series, index])
        size, color, shape, background, phrasing = (
            names[rng.integers(len(names))]
            for names in (list(vocabulary.sizes), colors, shapes, list(vocabulary.backgrounds), vocabulary.phrasings)
        )
        scene = Scene((SceneObject(size, color, shape),), None, background)
        scenes.append((scene, scene.format_caption(phrasing), rng))
    return scenes


def write_subject_images(case: SubjectCase, count: int) -> None:
    """Pictures of the thing with their captions, as a folder that `filter` reads."""
    lines = []
    for i, (scene, scene_caption, rng) in enumerate(
        make_subject_scenes(case.vocabulary, case.subject_claim[0], TRAINING_SERIES, count)
    ):
        Image.fromarray(render_scene(scene, case.vocabulary, rng)).save(case.thing / f"{i:02d}.png")
        lines.append(json.dumps({"file_name": f"{i:02d}.png", "text": scene_caption}) + "\n")
    (case.thing / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")


def measure_subject_finetuning(
    case: SubjectCase,
    overrides: dict[str, Any],
    image_counts: tuple[int, int],
    num_inference_steps: int,
    guidance_scale: float,
) -> dict:
    """Tune the student as the section `finetune` with `changes` says ({}: not at all) and judge what it draws.

    `counts`: pictures of the thing, and of old scenes. The row: the settings; "thing" and "old", a 0 or 1 a picture;
    "kept", of rendered pictures of the thing that went through the VAE and back: what it loses no training can teach.
    """
    method = overrides.get("method", BASELINE_METHOD) if case.adapter is None else f"carried {case.adapter.name}"
    row: dict[str, Any] = {"student": case.student.name, "method": method, "changes": overrides}
    model_dir = case.student
    if overrides:
        start_time = time.perf_counter()
        model_dir, report = _finetune_on_subject(
            case, validate_config(Finetune, fill_section("finetune", overrides), "finetune")
        )
        row |= {"seconds": round(time.perf_counter() - start_time), "steps": report["steps"], "pairs": report["pairs"]}
    subject_word, claim = case.subject_claim
    test_scenes = make_subject_scenes(case.vocabulary, subject_word, TEST_SERIES, image_counts[0])
    new_captions = [scene_caption for _, scene_caption, _ in test_scenes]
    old_captions = [
        make_caption(read_vocabulary(case.scenes), 0, FIRST_UNSEEN_INDEX + i) for i in range(image_counts[1])
    ]
    pipeline = load_for_inference(model_dir, case.device)
    if case.adapter is not None:
        pipeline.load_lora_weights(case.adapter.parent, weight_name=case.adapter.name)
    images = list(
        generate(
            pipeline,
            new_captions + old_captions,
            steps=num_inference_steps,
            guidance=guidance_scale,
            seed=0,
            batch_size=50,
        )
    )
    row |= {"inference_steps": num_inference_steps, "guidance": guidance_scale}
    subject_correct = [
        _judge_claims(image, scene_caption, case.vocabulary)[claim]
        for image, scene_caption in zip(images, new_captions, strict=False)
    ]
    reconstructions = reconstruct_images(
        pipeline.vae, np.stack([render_scene(scene, case.vocabulary, rng) for scene, _, rng in test_scenes])
    )
    reconstruction_correct = [
        _judge_claims(image, scene_caption, case.vocabulary)[claim]
        for image, scene_caption in zip(reconstructions, new_captions, strict=True)
    ]
    old_claims = [
        _judge_claims(image, scene_caption, case.vocabulary)
        for image, scene_caption in zip(images[len(new_captions) :], old_captions, strict=True)
    ]
    verdicts = {
        "thing": [int(claims) for claims in subject_correct],
        "kept": [int(claims) for claims in reconstruction_correct],
    }
    return row | verdicts | {"old": [int(all(claims.values())) for claims in old_claims]}


def _judge_claims(image: np.ndarray, scene_caption: str, vocabulary: Vocabulary) -> dict[str, bool]:
    claims = judge_image(image, scene_caption, vocabulary)
    assert claims is not None  # the captions are the vocabulary's own
    return claims


def _finetune_on_subject(case: SubjectCase, params: Finetune) -> tuple[Path, dict]:
    """The tuned pipeline's folder, and the report."""
    text_format = "tokens" if params.trains_text_encoder else "embeddings"
    latents_dir, out = case.work / f"latents-{text_format}", case.work / "tuned" / case.student.name
    if not (latents_dir / MANIFEST).is_file():
        filter_overrides = {"source": "folder", "path": str(case.thing), "samples": 1000}
        filter_dataset(
            validate_config(Filter, fill_section("filter", filter_overrides), "filter"), 0, case.work / "pairs"
        )
        encode_params = validate_config(
            Encode, fill_section("encode", {"heldout": 2, "text": text_format, "flip": case.flip}), "encode"
        )
        encode_dataset(encode_params, 0, case.student, case.work / "pairs", latents_dir, case.device)
    report = finetune(
        params,
        teacher=case.student,
        latents=latents_dir,
        replay_latents=case.main,
        student=case.student,
        out=out,
        curves=case.work / "curves",
        placement=Placement(case.device),
        checkpoint_every=50,
        make_class_images=lambda: make_class_latents(params, case.student, latents_dir, case.device),
    )
    return out, report


def build_subject_table(results: Sequence[dict]) -> list[list[str]]:
    """A table, the head first: a row a method, against the same student before, on as many old scenes."""
    table = [["student", "method", "steps", "thing drawn", "old scenes right", "difference to before"]]
    for row in results:
        baselines = [
            result for result in results if result["method"] == BASELINE_METHOD and result["student"] == row["student"]
        ]
        subject_estimate, old_estimate = (estimate_fraction(sum(row[key]), len(row[key])) for key in ("thing", "old"))
        is_tuned = baselines and row["method"] != BASELINE_METHOD
        difference = (
            _format_estimate_with_count(estimate_paired_difference(row["old"], baselines[0]["old"][: len(row["old"])]))
            if is_tuned
            else "–"
        )
        steps = str(row.get("steps", "–"))
        table.append(
            [
                row["student"],
                row["method"],
                steps,
                _format_estimate_with_count(subject_estimate),
                _format_estimate_with_count(old_estimate),
                difference,
            ]
        )
    return table


def _format_estimate_with_count(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f}), n = {estimate.n}"
