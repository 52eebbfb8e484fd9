"""Nothing but features and values grows with the number of pictures."""

import tracemalloc

import numpy as np
from networks import WIDTH

from prunella.evaluation.metrics import find_metric
from prunella.params import ReferenceImages
from prunella.sampling.benchmark_prompts import Prompt
from prunella.sampling.gallery import ImageShards, collect_images, generate_image_shards
from prunella.sampling.image_shards import split_into_shards

SIDE, BATCH = 128, 2
PICTURE = SIDE * SIDE * 3  # bytes
NAMES = (
    "clip_score",
    "clip_similarity",
    "dino_similarity",
    "kid",
    "cmmd",
    "latent_kid",
    "pick_score",
    "hpsv2",
    "lpips",
)


def gallery(folder, prompts):
    """Random pixels: PNG does not make them small."""
    tasks = split_into_shards(prompts, BATCH)

    def draw(some):
        return np.stack(
            [np.random.default_rng(each.number).integers(0, 256, (SIDE, SIDE, 3), np.uint8) for each in some]
        )

    generate_image_shards(tasks, draw, folder / "work", "draw")
    collect_images(tasks, folder / "work", folder / "out", {})
    return folder / "out"


def test_sixty_pictures_take_the_memory_of_six_but_for_their_features(make_subject, networks, tmp_path, monkeypatch):
    monkeypatch.setattr("prunella.sampling.image_shards.IMAGES_PER_SHARD", 4)
    peaks = []
    for count in (6, 6, 60):  # the first time caches fill
        every = [Prompt(i, "a ring", SIDE, SIDE, i if i < 3 else None) for i in range(count)]
        folder = gallery(tmp_path / f"{len(peaks)}", every)
        real = ReferenceImages(path=str(tmp_path / "real"), max_images=count)
        if not peaks:
            write_real(tmp_path / "real")
        subject = make_subject(
            0, prompts=every, teacher_images_dir=folder, backbones=networks, real=real, batch_size=BATCH
        )
        tracemalloc.start()
        metrics = [find_metric(name).build(subject) for name in NAMES]
        for prompts, images in ImageShards(folder).iter_batches(BATCH):
            for metric in metrics:
                metric.update(images, [prompt.text for prompt in prompts])
        assert all(metric.compute().n == count for metric in metrics)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    features = 54 * 8 * (2 * WIDTH + 64 + 54)  # Inception's, CLIP's, the VAE's, and a kernel matrix's row
    # Kept pictures would be 54 of them, or more; what the garbage collector has not yet met is up to four, as measured.
    assert peaks[2] < peaks[1] + 4 * features + 54 * PICTURE / 5


def write_real(folder) -> None:
    from PIL import Image

    folder.mkdir()
    for i in range(60):
        pixels = np.random.default_rng(1000 + i).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")


def test_a_network_sees_one_batch_at_a_time(make_subject, networks, tmp_path):
    every = [Prompt(i, "a ring", SIDE, SIDE, None) for i in range(7)]
    folder = gallery(tmp_path, every)
    subject = make_subject(0, prompts=every, teacher_images_dir=folder, backbones=networks, batch_size=3)
    metric, seen = find_metric("clip_similarity").build(subject), []
    model = subject.shared["backbone clip"].model
    model.vision_model.register_forward_pre_hook(
        lambda _, given, named: seen.append(len(named["pixel_values"])), with_kwargs=True
    )
    for prompts, images in ImageShards(folder).iter_batches(3):
        metric.update(images, [prompt.text for prompt in prompts])
    assert seen == [3, 3, 1]
