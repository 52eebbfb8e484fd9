import numpy as np
from PIL import Image

from prunella.samples.pairs import Pair, chunks, read_manifest, reader, size_conditioning, squared, write_manifest
from prunella.samples.scenes import captioned


def test_a_manifest_comes_back_as_it_was(tmp_path):
    pairs = [Pair("a.png", "ein Bär", 5, 7, "0f"), Pair("b.png", 'a "quoted"\nline', 1, 1, "")]
    write_manifest(tmp_path / "m", {"source": "folder", "path": "x"}, pairs)
    assert read_manifest(tmp_path / "m") == ({"source": "folder", "path": "x"}, pairs)


def test_pictures_are_found_by_key(tmp_path, vocabulary):
    from conftest import ROOT

    Image.new("RGB", (3, 3), "blue").save(tmp_path / "a.png")
    assert reader({"source": "folder", "path": str(tmp_path)})("a.png").getpixel((1, 1)) == (0, 0, 255)
    scenes = reader({"source": "scenes", "path": str(ROOT / "data" / "scenes.yaml"), "seed": 4})
    assert np.array_equal(np.asarray(scenes("12")), captioned(vocabulary, 4, 12)[1])


def test_the_middle_square_is_taken():
    wide = Image.new("RGB", (30, 10), "black")
    wide.paste("white", (10, 0, 20, 10))
    assert squared(wide, 10).min() == 255
    assert squared(wide, 5).shape == (5, 5, 3)
    assert squared(wide.rotate(90, expand=True), 10).min() == 255


def test_sdxls_size_conditioning_by_hand():
    # 300 wide and 100 high: the middle square starts 100 to the right, which is 64 in a picture of a height of 64.
    assert size_conditioning(Image.new("RGB", (300, 100)), 64) == [100, 300, 0, 64, 64, 64]
    assert size_conditioning(Image.new("RGB", (64, 96)), 64) == [96, 64, 16, 0, 64, 64]


def test_chunks_leave_nothing_out():
    assert list(chunks([1, 2, 3, 4, 5], 2)) == [[1, 2], [3, 4], [5]]
    assert list(chunks([], 2)) == []
