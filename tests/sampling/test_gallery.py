import tarfile

import numpy as np
import pytest

from prunella.errors import UserError
from prunella.params import parse_quantized_dtype
from prunella.sampling import image_shards
from prunella.sampling.benchmark_prompts import Prompt
from prunella.sampling.gallery import ImageShards, collect_images, generate_image_shards
from prunella.sampling.image_shards import batch_by_size, split_into_shards

SETTINGS = {"steps": 2}
WIDE = (5, 3, 8)  # numbers of the prompts whose picture is wide


def prompts(count: int = 9) -> list[Prompt]:
    return [Prompt(i, f"prompt {i} ü", 6 if i in WIDE else 4, 4, 100 + i) for i in range(count)]


class Draw:
    """Draws the prompt's number into every pixel; raises before batch `fails`, counted from 0."""

    def __init__(self, fails: int | None = None):
        self.fails, self.drawn = fails, []

    def __call__(self, some: list[Prompt]) -> np.ndarray:
        if len(self.drawn) == self.fails:
            raise KeyboardInterrupt
        self.drawn.append([prompt.number for prompt in some])
        height, width = some[0].height, some[0].width
        return np.stack([np.full((height, width, 3), prompt.number, np.uint8) for prompt in some])


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(image_shards, "IMAGES_PER_SHARD", 4)


def drawn(folder, draw, count: int = 9):
    tasks = split_into_shards(prompts(count), 2)
    generate_image_shards(tasks, draw, folder / "work", "draw")
    return collect_images(tasks, folder / "work", folder / "out", SETTINGS)


def sums(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_batches_are_of_one_size_each():
    assert [[prompt.number for prompt in batch] for batch in batch_by_size(prompts(), 2)] == [
        [0, 1], [2, 4], [6, 7], [3, 5], [8],
    ]  # fmt: skip


def test_a_gallery_gives_back_what_was_drawn(tmp_path):
    count, rate = drawn(tmp_path, Draw())
    assert count == 9 and rate > 0
    gallery = ImageShards(tmp_path / "out")
    assert len(gallery) == 9 and gallery.settings == SETTINGS
    found = list(gallery)
    assert [prompt for prompt, _ in found] == [prompts()[i] for i in (0, 1, 2, 4, 6, 7, 3, 5, 8)]
    for prompt, picture in found:
        assert picture.shape == (4, 6 if prompt.number in WIDE else 4, 3) and (picture == prompt.number).all()
    assert [len(names) for names, _ in gallery.iter_batches(4)] == [4, 2, 3]
    assert [prompt.number for prompt, _ in gallery.read_first(5)] == [0, 1, 2, 3, 4]


def test_shards_are_webdatasets(tmp_path):
    drawn(tmp_path, Draw())
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["00000.tar", "00001.tar", "00002.tar"]
    with tarfile.open(tmp_path / "out" / "00000.tar") as tar:
        assert tar.getnames()[:2] == ["000000.png", "000000.txt"]
        assert tar.extractfile("000000.txt").read().decode() == "prompt 0 ü"


@pytest.mark.parametrize("fails", range(5))
def test_an_interrupted_drawing_redraws_no_whole_batch(fails, tmp_path):
    drawn(tmp_path / "quiet", Draw())
    first, second = Draw(fails), Draw()
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path / "broken", first)
    assert not (tmp_path / "broken" / "out").exists()
    drawn(tmp_path / "broken", second)
    assert first.drawn + second.drawn == [[0, 1], [2, 4], [6, 7], [3, 5], [8]]
    assert sums(tmp_path / "quiet" / "out") == sums(tmp_path / "broken" / "out")


def test_a_half_written_batch_is_drawn_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, Draw(fails=1))
    part = tmp_path / "work" / "00000-0000.part"
    part.write_bytes(part.read_bytes()[:-600])
    again = Draw()
    drawn(tmp_path, again)
    assert again.drawn[0] == [0, 1]


def test_a_whole_work_folder_is_taken_as_it_is(tmp_path):
    drawn(tmp_path, Draw())
    before, again = sums(tmp_path / "out"), Draw()
    drawn(tmp_path, again)
    assert again.drawn == [] and sums(tmp_path / "out") == before
    assert not list((tmp_path / "work").glob("*.part*"))


def test_processes_share_the_shards(tmp_path):
    tasks, each = split_into_shards(prompts(), 2), [Draw(), Draw()]
    for rank in (1, 0):
        generate_image_shards(tasks, each[rank], tmp_path / "work", "draw", rank, 2)
    assert [draw.drawn for draw in each] == [[[0, 1], [2, 4], [8]], [[6, 7], [3, 5]]]
    collect_images(tasks, tmp_path / "work", tmp_path / "out", SETTINGS)
    assert len(ImageShards(tmp_path / "out")) == 9


def test_a_missing_shard_is_no_gallery(tmp_path):
    tasks = split_into_shards(prompts(), 2)
    generate_image_shards(tasks, Draw(), tmp_path / "work", "draw", 0, 2)
    with pytest.raises(UserError, match=r"00001\.tar"):
        collect_images(tasks, tmp_path / "work", tmp_path / "out", SETTINGS)
    with pytest.raises(UserError, match=r"manifest\.json"):
        ImageShards(tmp_path / "out")


def test_a_changed_shard_is_noticed(tmp_path):
    drawn(tmp_path, Draw())
    path = tmp_path / "out" / "00001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.unlink()  # a link to the work folder's
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"00001\.tar"):
        list(ImageShards(tmp_path / "out"))


def test_one_batch_of_pictures_is_held_at_a_time(tmp_path):
    """Drawing and reading 40 pictures holds no more of them than a few shards' 12."""
    import tracemalloc

    peaks = []
    for count in (12, 40):
        every = [Prompt(i, "p", 256, 256, i) for i in range(count)]
        tasks = split_into_shards(every, 2)
        tracemalloc.start()
        generate_image_shards(tasks, Draw(), tmp_path / str(count), "draw")
        collect_images(tasks, tmp_path / str(count), tmp_path / f"{count}-out", SETTINGS)
        for _ in ImageShards(tmp_path / f"{count}-out").iter_batches(2):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 256 * 256 * 3  # less than one picture more


def test_bits_stand_at_the_end_of_a_models_name():
    assert parse_quantized_dtype("sd-tiny/int8") == "int8" and parse_quantized_dtype("fp8") == "fp8"
    assert parse_quantized_dtype("sd-tiny/finetuned") is None and parse_quantized_dtype("int8/pruned") is None
