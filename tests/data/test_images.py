import errno
import io
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFile

from prunella.data import images
from prunella.data.images import (
    MAX_JPEG_SCANS,
    MAX_PIXELS,
    MemoryBudget,
    RejectedImage,
    center_crop_box,
    center_crop_resize,
    count_jpeg_scans,
    decode_image,
    load_image,
    measure_contrast,
    open_rgb,
    perceptual_hash,
    raise_system_errors,
    read_file_bytes,
    size_conditioning,
)
from prunella.errors import UserError


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def cause(data: bytes) -> tuple[str, str]:
    with pytest.raises(RejectedImage) as found:
        decode_image(data)
    return found.value.cause, found.value.criterion


def scene(size=(96, 64), seed=0) -> Image.Image:
    """Something with edges and areas, different for each seed."""
    drawn, lots = Image.new("RGB", size, "white"), random.Random(seed)
    pen = ImageDraw.Draw(drawn)
    for _ in range(6):
        x, y, r = lots.randrange(size[0]), lots.randrange(size[1]), lots.randrange(8, 30)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tuple(lots.randrange(256) for _ in range(3)))
    return drawn


def test_transparency_is_laid_on_white():
    picture = decode_image(encoded(Image.new("RGBA", (5, 3), (255, 0, 0, 0))))
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (5, 3), (255, 255, 255))


def test_palettes_with_transparency_too():
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9] + [0] * 765)
    assert decode_image(encoded(palette, transparency=0)).getpixel((1, 1)) == (255, 255, 255)


def test_exif_turns_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    assert decode_image(encoded(Image.new("RGB", (4, 2)), "JPEG", exif=exif)).size == (2, 4)


def test_cmyk_becomes_rgb():
    red = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")).getpixel((4, 4))
    assert red[0] > 200 and max(red[1:]) < 60


def test_sixteen_bits_are_made_eight():
    grey = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    assert np.asarray(decode_image(encoded(grey)))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]


def test_a_pictures_name_does_not_matter(tmp_path):
    Image.new("RGB", (3, 3), "blue").save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg").getpixel((1, 1)) == (0, 0, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_what_moves_is_no_picture(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    assert cause(encoded(frames[0], kind, save_all=True, append_images=frames[1:])) == ("animated", "animated")
    assert decode_image(encoded(frames[0], kind)).size == (8, 8)


def test_why_a_picture_cannot_be_used():
    whole = encoded(scene(), "JPEG")
    assert cause(b"") == ("empty file", "broken")
    assert cause(b"\n <!DOCTYPE html><html>404</html>") == ("a web page or other markup", "broken")
    assert cause(b"hello") == ("no picture", "broken")
    assert cause(whole[: len(whole) // 2]) == ("damaged or cut off", "broken")
    assert cause(encoded(scene())[:60]) == ("damaged or cut off", "broken")
    assert cause(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")) == (
        "pixels of no known range",
        "broken",
    )
    assert cause(encoded(Image.new("I", (2, 2)), "TIFF")) == ("pixels of no known range", "broken")
    assert cause(encoded(Image.new("RGB", (5, 5)), "PPM")) == ("no picture", "broken")  # not among FORMATS


def test_a_bomb_is_not_unpacked():
    side = int(MAX_PIXELS**0.5) + 1
    assert cause(encoded(Image.new("1", (side, side)))) == ("too many pixels", "broken")


# What would take too much time or memory


def with_scans(count: int, size=(24, 16)) -> bytes:
    """A progressive JPEG whose last scan is repeated until there are `count`."""
    whole = encoded(scene(size), "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * (count - count_jpeg_scans(whole)) + whole[-2:]


def test_scans_are_counted_without_decoding():
    assert count_jpeg_scans(encoded(scene(), "JPEG")) == 1
    assert count_jpeg_scans(encoded(scene(), "JPEG", progressive=True)) == 10  # libjpeg's script for colour
    assert count_jpeg_scans(with_scans(MAX_JPEG_SCANS)) == MAX_JPEG_SCANS
    assert count_jpeg_scans(with_scans(MAX_JPEG_SCANS + 1)) == MAX_JPEG_SCANS + 1


def test_a_jpeg_of_too_many_scans_is_not_unpacked():
    assert decode_image(with_scans(MAX_JPEG_SCANS)).size == (24, 16)
    assert cause(with_scans(MAX_JPEG_SCANS + 1)) == ("too many scans", "broken")


def test_what_only_looks_like_scans_is_no_scan():
    whole = encoded(scene(), "JPEG")
    note = b"\xff\xda" * 300
    noted = whole[:2] + b"\xff\xfe" + struct.pack(">H", len(note) + 2) + note + whole[2:]
    assert count_jpeg_scans(noted) == 1 and decode_image(noted).size == (96, 64)
    assert decode_image(whole + note).size == (96, 64)  # behind the picture's end


def png(width: int, height: int, depth: int, kind: int) -> bytes:
    """The header of a PNG and no pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_bytes_are_limited_and_not_pixels_alone():
    side = int(MAX_PIXELS**0.5)
    assert cause(png(side, side, 16, 6)) == ("too many bytes when unpacked", "broken")
    assert cause(png(side, side, 8, 6)) == ("damaged or cut off", "broken")
    assert cause(png(side // 2, side, 16, 6)) == ("damaged or cut off", "broken")


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}])
def test_the_canvas_of_a_webp_is_known_before_it_is_opened(options):
    data = encoded(Image.new("RGB", (301, 17)), "WEBP", **options)
    assert data[12:16] == {0: b"VP8 ", 1: b"VP8L" if "lossless" in options else b"VP8X"}[len(options)]
    assert images._webp_pixels(data) == 301 * 17 and images._webp_pixels(encoded(Image.new("RGB", (3, 3)))) == 0
    if "exif" in options:
        large = data[:24] + b"\xfe\x3f\0\xfe\x3f\0" + data[30:]  # 16383 pixels each way
        assert cause(large) == ("too many pixels", "broken")


def test_a_tile_larger_than_its_picture():
    small = encoded(Image.new("RGB", (16, 16), "red"), "TIFF", compression="tiff_deflate", tiffinfo={322: 16, 323: 16})
    with Image.open(io.BytesIO(small)) as opened:
        opened.tag_v2[322], opened.tag_v2[323] = 30000, 30000
        with pytest.raises(RejectedImage, match="too many bytes when unpacked"):
            images._check_image_limits(opened, small)


def test_threads_share_a_budget():
    budget, inside, most, done = MemoryBudget(10), [], [], []

    def hold(amount: int) -> None:
        for _ in range(20):
            with budget.acquire(amount):
                inside.append(amount)
                most.append(sum(inside))
                inside.remove(amount)
        done.append(amount)

    threads = [threading.Thread(target=hold, args=(amount,), daemon=True) for amount in (3, 4, 6, 10, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(done) == [3, 4, 6, 10, 25] and budget.used == 0
    assert max(most) == 25 and not {value for value in most if 10 < value != 25}


def test_a_picture_counts_as_long_as_it_is_used(monkeypatch):
    budget = MemoryBudget(1000)
    monkeypatch.setattr(images, "DECODE_BUDGET", budget)
    with open_rgb(encoded(scene((5, 4)))) as picture:
        assert budget.used == 5 * 4 * images.BYTES_PER_PIXEL and picture.size == (5, 4)
    assert budget.used == 0
    with pytest.raises(RejectedImage):
        decode_image(encoded(scene())[:60])
    assert budget.used == 0


def test_bands_give_what_the_whole_picture_gives(monkeypatch):
    chance = np.random.default_rng(0)
    for pixels in (chance.integers(0, 256, (13, 7, 4), np.uint8), chance.integers(0, 65536, (13, 7), np.uint16)):
        data = encoded(Image.fromarray(pixels))
        whole = decode_image(data).tobytes()
        monkeypatch.setattr(images, "BAND_PIXELS", 15)  # two rows at a time
        assert decode_image(data).tobytes() == whole
        monkeypatch.undo()


# What the machine fails at


MEMORY = """
import resource, sys
from prunella.data.images import decode_image, RejectedImage
data = sys.stdin.buffer.read()
decode_image(data)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 60_000_000, -1))
try:
    decode_image(data)
except MemoryError:
    print("memory")
except RejectedImage as rejected:
    print(rejected.cause)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of a process's memory, as Linux has them")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_too_little_memory_is_no_damage(kind):
    data = encoded(Image.new("RGB", (5000, 4000), "red"), kind)
    done = subprocess.run([sys.executable, "-c", MEMORY], input=data, capture_output=True, check=True)
    assert done.stdout.split() == [b"memory"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_failing_disk_is_no_unreadable_file(tmp_path, monkeypatch, number):
    (tmp_path / "a.png").write_bytes(encoded(scene()))

    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(OSError, match=os.strerror(number)):
        read_file_bytes(tmp_path / "a.png")
    with pytest.raises(UserError, match=rf"^a\.png: .*{errno.errorcode[number]}"), raise_system_errors("a.png"):
        read_file_bytes(tmp_path / "a.png")


def test_a_decoder_out_of_memory_is_the_machines(monkeypatch):
    def fails(*_):
        raise ImageFile._get_oserror(-9, encoder=False)

    data = encoded(scene())
    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    with pytest.raises(MemoryError):
        decode_image(data)
    with pytest.raises(UserError, match=r"^a\.png: .*memory.*runtime\.workers"), raise_system_errors("a.png"):
        decode_image(data)


def test_a_strip_is_a_picture():
    assert decode_image(encoded(Image.new("RGB", (1, 20000)))).size == (1, 20000)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, why in (
        ("none.png", "no such file"),
        ("folder.png", "no regular file"),
        ("pipe.png", "no regular file"),
        ("a\0b", "unreadable file"),
    ):
        with pytest.raises(RejectedImage, match=why):
            read_file_bytes(tmp_path / name)


SEEDS = [encoded(scene((20, 13)), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_any_bytes_give_a_picture_or_a_cause(data):
    raw = data.draw(st.binary(max_size=200) | st.sampled_from(SEEDS))
    spoilt = bytearray(raw)
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8)):
        if spoilt:
            spoilt[place % len(spoilt)] = value
    try:
        picture = decode_image(bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))]))
    except RejectedImage as unfit:
        assert unfit.cause and unfit.criterion in ("broken", "animated")
    else:
        assert picture.mode == "RGB" and min(picture.size) > 0
        assert 0 <= perceptual_hash(picture) < 1 << 128 and 0 <= measure_contrast(picture) <= 128


def test_the_middle_is_taken():
    wide = Image.new("RGB", (30, 10), "black")
    wide.paste("white", (10, 0, 20, 10))
    assert center_crop_resize(wide, 10, 10).min() == 255
    assert center_crop_resize(wide, 5, 5).shape == (5, 5, 3)
    assert center_crop_resize(wide.rotate(90, expand=True), 10, 10).min() == 255
    assert center_crop_resize(wide, 24, 8).shape == (8, 24, 3)


def test_middles_by_hand():
    assert center_crop_box((300, 100), 64, 64) == (100, 0, 200, 100)
    assert center_crop_box((100, 100), 96, 64) == (0, 16, 100, 83)  # 100 wide is 66.7 high
    assert center_crop_box((7, 5), 7, 5) == (0, 0, 7, 5)
    assert center_crop_box((1, 20000), 64, 64) == (0, 9999, 1, 10000)


@settings(max_examples=300, deadline=None)
@given(*[st.integers(1, 5000)] * 2, *[st.integers(1, 40)] * 2)
def test_crops_lie_inside_and_keep_proportions(wide, high, columns, rows):
    left, top, right, bottom = center_crop_box((wide, high), 64 * columns, 64 * rows)
    assert 0 <= left < right <= wide and 0 <= top < bottom <= high
    assert right - left == wide or bottom - top == high
    # A side is the next whole pixel to what the proportions ask.
    assert abs((right - left) * rows - (bottom - top) * columns) <= max(rows, columns)


def test_sdxls_size_conditioning_by_hand():
    # Height and width, top and left of the crop in the resized picture, height and width of the result.
    table = {
        ((300, 100), (64, 64)): [100, 300, 0, 64, 64, 64],  # 100 to the right is 64 when a height of 100 becomes 64
        ((64, 96), (64, 64)): [96, 64, 16, 0, 64, 64],
        ((1920, 1080), (1344, 768)): [1080, 1920, 0, 11, 768, 1344],  # 1890 wide is taken, 15 left of it, × 0.711
        ((1000, 2000), (832, 1216)): [
            2000,
            1000,
            224,
            0,
            1216,
            832,
        ],  # 1462 of 2000 high, 269 above it, × 0.832 = 223.7
        ((1024, 1024), (1024, 1024)): [1024, 1024, 0, 0, 1024, 1024],
    }
    for (size, target), expected in table.items():
        assert size_conditioning(size, *target) == expected


def test_blank_pictures_have_no_contrast():
    assert measure_contrast(Image.new("RGB", (50, 40), "white")) == 0
    halves = Image.new("RGB", (64, 64), "black")
    halves.paste((0, 0, 200), (0, 0, 32, 64))
    assert measure_contrast(halves) == 100


def test_a_perceptual_hash_survives_what_pictures_go_through():
    drawn = scene((400, 300), 1)
    value = perceptual_hash(drawn)
    small = decode_image(encoded(drawn.resize((200, 150)), "JPEG", quality=70))
    assert (value ^ perceptual_hash(small)).bit_count() <= 7
    others = [perceptual_hash(scene((400, 300), seed)) for seed in range(2, 30)]
    assert min((value ^ other).bit_count() for other in others) > 15
