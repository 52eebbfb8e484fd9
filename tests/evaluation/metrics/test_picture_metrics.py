"""Metrics through small random networks, each against a direct computation in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import Inception, Vgg
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Dinov2Model

from prunella.data.manifest import read_sample_manifest
from prunella.evaluation.frechet import measure_frechet
from prunella.evaluation.metrics import find_metric
from prunella.evaluation.metrics.base import Unavailable
from prunella.evaluation.metrics.inception_score import estimate_inception_score
from prunella.params import ReferenceImages
from prunella.sampling.gallery import ImageShards

SEEN = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8) for i in range(7)]


def measured(name: str, subject):
    """The metric of seven pictures, in batches of two."""
    metric = find_metric(name).build(subject)
    for start in range(0, 7, 2):
        metric.update(SEEN[start : start + 2], [prompt.text for prompt in subject.prompts[start : start + 2]])
    return metric


def unit(rows) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.sqrt((rows**2).sum(1, keepdims=True))


@torch.no_grad()
def clip_of(folder: str, pictures, texts=()) -> tuple[np.ndarray, np.ndarray | None]:
    """By plain transformers: unit embeddings of pictures and texts, one by one."""
    model, processor = CLIPModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")
    words = AutoTokenizer.from_pretrained(folder)
    seen = [
        model.visual_projection(model.vision_model(**processor(Image.fromarray(p), return_tensors="pt")).pooler_output)
        for p in pictures
    ]
    read = [
        model.text_projection(
            model.text_model(**words(text, return_tensors="pt", truncation=True, max_length=19)).pooler_output
        )
        for text in texts
    ]
    return unit(torch.cat(seen)), unit(torch.cat(read)) if read else None


@pytest.fixture
def subject(make_subject, networks):
    return make_subject(7, backbones=networks)


def test_clip_score_is_the_mean_cosine(subject, networks):
    metric = measured("clip_score", subject)
    seen, read = clip_of(networks.clip, SEEN, [prompt.text for prompt in subject.prompts])
    expected = (seen * read).sum(1)
    assert metric.values()[""] == pytest.approx(expected, abs=1e-6)
    estimate = metric.compute()
    assert (estimate.value, estimate.n) == (pytest.approx(expected.mean(), abs=1e-6), 7)
    assert estimate.low < estimate.value < estimate.high
    assert len(set(np.round(expected, 4))) > 3  # toy embeddings differ, so the test can fail


def test_pick_score_is_scaled_by_what_its_training_learned(subject, networks):
    seen, read = clip_of(networks.preference, SEEN, [prompt.text for prompt in subject.prompts])
    scale = float(np.exp(2.6592))  # CLIP's initial temperature
    assert measured("pick_score", subject).values()[""] == pytest.approx(scale * (seen * read).sum(1), abs=1e-4)


def test_hpsv2_is_the_cosine_of_a_padded_picture(make_subject, networks):
    wide = [np.random.default_rng(i).integers(0, 256, (21, 32, 3), np.uint8) for i in range(3)]
    metric = find_metric("hpsv2").build(make_subject(7, backbones=networks))
    texts = ["a ring", "two red hearts", "a star"]
    metric.update(wide, texts)
    padded = [np.zeros((32, 32, 3), np.uint8) for _ in wide]
    for whole, part in zip(padded, wide, strict=True):
        whole[5:26] = part
    seen, read = clip_of(networks.hpsv2, padded, texts)
    assert metric.values()[""] == pytest.approx((seen * read).sum(1), abs=1e-6)


@torch.no_grad()
def test_lpips_is_the_weighed_distance_of_unit_channels_place_by_place(subject):
    torch.manual_seed(4)  # as it was made
    model = Vgg().double()

    def channels(picture):
        pixels = torch.tensor(picture).permute(2, 0, 1)[None].double() / 127.5 - 1
        found = model.layer(pixels).relu()[0].numpy()
        return found / np.sqrt((found**2).sum(0) + 1e-10)

    theirs = [picture for _, picture in ImageShards(subject.teacher_images_dir)]
    weights = model.weights.numpy()[:, None, None]
    expected = [(weights * (channels(a) - channels(b)) ** 2).sum(0).mean() for a, b in zip(SEEN, theirs, strict=True)]
    assert measured("lpips", subject).values()[""] == pytest.approx(expected, rel=1e-4) and min(expected) > 0
    metric = find_metric("lpips").build(subject)
    metric.update(theirs, [""] * 7)
    assert metric.values()[""] == [0] * 7


def test_aesthetic_score_by_a_linear_head(subject, networks):
    head = torch.load(networks.aesthetic, weights_only=True)
    weight, bias = head["weight"].double().numpy(), head["bias"].double().numpy()
    expected = clip_of(networks.clip, SEEN)[0] @ weight[0] + bias[0]
    assert measured("aesthetic", subject).values()[""] == pytest.approx(expected, abs=1e-5)


def test_likeness_to_the_teacher_s_picture_from_the_same_noise(subject, networks):
    theirs = [picture for _, picture in ImageShards(subject.teacher_images_dir)]
    expected = (clip_of(networks.clip, SEEN)[0] * clip_of(networks.clip, theirs)[0]).sum(1)
    assert measured("clip_similarity", subject).values()[""] == pytest.approx(expected, abs=1e-6)
    metric = find_metric("clip_similarity").build(subject)
    metric.update(theirs, [""] * 7)
    assert metric.compute().value == pytest.approx(1, abs=1e-6)


@torch.no_grad()
def test_likeness_in_dino_s_space(subject, networks):
    model = Dinov2Model.from_pretrained(networks.dino)
    processor = AutoImageProcessor.from_pretrained(networks.dino, backend="pil")

    def embedded(pictures):
        pixels = [processor(Image.fromarray(p), return_tensors="pt").pixel_values for p in pictures]
        return unit(torch.cat([model(each).last_hidden_state[:, 0] for each in pixels]))

    theirs = [picture for _, picture in ImageShards(subject.teacher_images_dir)]
    expected = (embedded(SEEN) * embedded(theirs)).sum(1)
    assert measured("dino_similarity", subject).values()[""] == pytest.approx(expected, abs=1e-6)


def discrepancy(one, other, kernel) -> float:
    within = [
        sum(kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j)
        / len(rows)
        / (len(rows) - 1)
        for rows in (one, other)
    ]
    return sum(within) - 2 * float(np.mean([[kernel(x, y) for y in other] for x in one]))


def in_inception(networks, pictures) -> np.ndarray:
    torch.manual_seed(2)  # as it was made
    model = Inception()
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    return model(pixels, return_features=True).detach().double().numpy()


@pytest.fixture
def real(tmp_path) -> tuple[ReferenceImages, list[np.ndarray]]:
    """A folder of eleven real pictures, of another size than the drawn ones, and how they are measured."""
    folder = tmp_path / "real"
    folder.mkdir()
    pictures = [np.random.default_rng(50 + i).integers(0, 256, (40, 32, 3), np.uint8) for i in range(11)]
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return ReferenceImages(path=str(folder), max_images=100), [pixels[4:36] for pixels in pictures]  # their middle


def test_kid_of_a_folder_pair_by_pair(make_subject, networks, real):
    metric = measured("kid", make_subject(7, backbones=networks, real=real[0]))
    one, other = in_inception(networks, SEEN), in_inception(networks, real[1])
    expected = discrepancy(one, other, lambda x, y: (x @ y / len(x) + 1) ** 3)
    assert metric.compute().value == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert metric.compute().n == 7 and len(metric.values()["_real"]) == 11
    assert metric.real_data_floor() is None  # nobody knows what real pictures would be of the drawn captions


def test_cmmd_pair_by_pair(make_subject, networks, real):
    metric = measured("cmmd", make_subject(7, backbones=networks, real=real[0]))
    one, other = (clip_of(networks.clip, pictures)[0] for pictures in (SEEN, real[1]))
    expected = discrepancy(one, other, lambda x, y: 1000 * np.exp(-((x - y) ** 2).sum() / 200))
    assert metric.compute().value == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_fid_from_ten_pictures_a_feature_on(make_subject, networks, monkeypatch, tmp_path):
    with pytest.raises(Unavailable, match=r"7 drawn and 22 real pictures; 100 of each are needed: 10 a feature"):
        find_metric("fid").build(make_subject(7, backbones=networks))
    monkeypatch.setattr("prunella.evaluation.metrics.fid.IMAGES_PER_FEATURE", 0.5)
    metric = measured("fid", make_subject(7, backbones=networks))
    one = in_inception(networks, SEEN)
    assert metric.compute().value == pytest.approx(measure_frechet(one, metric.space.real).value, rel=1e-4)


def test_precision_and_recall_in_inception_s_features(make_subject, networks, real, monkeypatch):
    with pytest.raises(Unavailable, match=r"7 drawn and 11 real pictures; 1000 of each are needed"):
        find_metric("recall").build(make_subject(7, backbones=networks, real=real[0]))
    monkeypatch.setattr("prunella.evaluation.precision_recall.MIN_IMAGES", 7)
    metrics = [measured(name, make_subject(7, backbones=networks, real=real[0])) for name in ("precision", "recall")]
    one, other = in_inception(networks, SEEN), in_inception(networks, real[1])
    expected = [
        np.mean(
            [
                any(np.linalg.norm(p - c) <= sorted(np.linalg.norm(c - centres, axis=1))[3] for c in centres)
                for p in points
            ]
        )
        for points, centres in ((one, other), (other, one))
    ]
    assert [metric.compute().value for metric in metrics] == pytest.approx(expected) and 0 < expected[0] < 1
    assert [len(metrics[1].values()[of]) for of in ("", "_real")] == [7, 11]


def test_real_pictures_are_those_whose_captions_are_not_drawn(make_subject, networks, manifest):
    subject = make_subject(7, backbones=networks)
    metric = measured("kid", subject)
    drawn = {prompt.text for prompt in subject.prompts}
    pairs = read_sample_manifest(manifest)[1]
    asked = sum(pair.text in drawn for pair in pairs)
    assert len(metric.space.real_of_prompts) == asked >= 7 and len(metric.space.real) == 29 - asked
    assert metric.real_data_floor().n == asked
    fewer = make_subject(7, backbones=networks, real=ReferenceImages(path=None, max_images=5))
    space = measured("kid", fewer).space
    assert len(space.real) == 5 and np.isin(space.real[:, 0], metric.space.real[:, 0]).all()


def test_inception_score_by_hand():
    sure = np.eye(4)[np.arange(40) % 4]  # each picture of one class for certain, and all classes alike in each part
    assert estimate_inception_score(np.tile([0.25] * 4, (40, 1))).value == pytest.approx(1)
    found = estimate_inception_score(np.repeat(sure, 500, axis=0))
    assert found.value == pytest.approx(4, rel=0.01) and found.n == 20_000
    shares = np.random.default_rng(0).dirichlet(np.ones(5), size=50)
    parts = np.array_split(np.random.default_rng(0).permutation(shares), 10)
    expected = [np.exp(np.mean([np.sum(p * np.log(p / part.mean(0))) for p in part])) for part in parts]
    assert estimate_inception_score(shares).value == pytest.approx(np.mean(expected))


def test_a_few_pictures_have_no_inception_score(subject, monkeypatch):
    with pytest.raises(Unavailable, match="7 pictures; 5000 are needed"):
        find_metric("inception_score").build(subject)
    monkeypatch.setattr("prunella.evaluation.metrics.inception_score.MIN_IMAGES", 7)
    monkeypatch.setattr("prunella.evaluation.metrics.inception_score.NUM_SPLITS", 3)
    estimate = measured("inception_score", subject).compute()
    assert estimate.n == 7 and 1 <= estimate.value < 6


@pytest.mark.parametrize(
    ("metric", "key", "given"),
    [
        ("clip_score", "clip", "hf download openai/clip-vit-large-patch14"),
        ("cmmd", "clip", "hf download"),
        ("kid", "inception", "curl .*inception-2015-12-05.pt"),
        ("dino_similarity", "dino", "hf download facebook/dinov2-base"),
        ("aesthetic", "aesthetic", "curl"),
        ("pick_score", "preference", "hf download yuvalkirstain/PickScore_v1"),
        ("hpsv2", "hpsv2", "hf download adams-story/HPSv2-hf"),
        ("lpips", "vgg", "curl .*vgg16.pt"),
        ("recall", "inception", "curl .*inception-2015-12-05.pt"),
    ],
)
def test_what_is_not_there_is_said_with_the_line_that_would_give_it(metric, key, given, make_subject, networks):
    with pytest.raises(
        Unavailable, match=rf"needs benchmark\.backbones\.{key}; `{given}.*benchmark\.backbones\.{key}: "
    ):
        find_metric(metric).build(make_subject(7))
    absent = networks.model_copy(update={key: "nobody/nothing"})
    with pytest.raises(Unavailable, match=rf"{key}: nobody/nothing is neither a path nor in the Hub's cache"):
        find_metric(metric).build(make_subject(7, backbones=absent))


def test_a_folder_of_something_else_is_said_in_one_line(make_subject, networks, teacher):
    for name, wrong in (("clip", networks.dino), ("clip", str(teacher)), ("inception", str(Path(networks.dino)))):
        changed = networks.model_copy(update={name: wrong})
        metric = {"clip": "clip_score", "inception": "kid"}[name]
        with pytest.raises(Unavailable, match=rf"benchmark\.backbones\.{name}: .* cannot be loaded: ") as caught:
            find_metric(metric).build(make_subject(7, backbones=changed))
        assert "\n" not in str(caught.value)
