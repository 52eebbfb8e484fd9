import pytest
from PIL import Image

from prunella.errors import UserError
from prunella.samples.folder import entries, read_picture


def listing(folder, *lines):
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_lines_are_read_and_absent_captions_are_empty(tmp_path):
    listing(
        tmp_path,
        '{"file_name": "a/b.png", "text": "a cat"}',
        "",
        '{"file_name": "c.png"}',
        '{"file_name": "d", "text": 3}',
    )
    assert list(entries(tmp_path)) == [("a/b.png", "a cat"), ("c.png", ""), ("d", "")]


@pytest.mark.parametrize(
    "line", ["{", "3", '{"text": "no name"}', '{"file_name": 3}', '{"file_name": "../secret.png"}']
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    listing(tmp_path, '{"file_name": "a.png", "text": "x"}', line)
    with pytest.raises(UserError, match=r"metadata.jsonl, line 2"):
        list(entries(tmp_path))


def test_no_folder_and_no_captions_are_said(tmp_path):
    with pytest.raises(UserError, match=r"filter.path: there is no folder .*none"):
        list(entries(tmp_path / "none"))
    with pytest.raises(UserError, match=r"has no metadata.jsonl, so its pictures have no captions"):
        list(entries(tmp_path))


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (5, 3), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    picture = read_picture(tmp_path / "clear.png")
    assert (picture.mode, picture.size, picture.getpixel((0, 0))) == ("RGB", (5, 3), (255, 255, 255))


def test_palettes_with_transparency_too(tmp_path):
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9] + [0] * 765)
    palette.save(tmp_path / "p.png", transparency=0)
    assert read_picture(tmp_path / "p.png").getpixel((1, 1)) == (255, 255, 255)


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.new("RGB", (4, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").size == (2, 4)


def test_broken_pictures_raise_os_error_with_their_name(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "text.png").write_text("hello")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:90])
    for name in ("broken.png", "text.png", "half.png", "absent.png"):
        with pytest.raises(OSError, match=name):
            read_picture(tmp_path / name)
