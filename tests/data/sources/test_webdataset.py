import errno
import json
import os
import tarfile
import time

import layouts
import pytest

from prunella.data.images import RejectedImage
from prunella.data.sources.webdataset import WebDataset, _CheckedTarFile, _find_member_fault, _iter_members
from prunella.errors import UserError


def source(path, **columns) -> dict:
    return {"source": "webdataset", "path": str(path), "columns": columns}


def rows(path, **columns):
    return [row for table in WebDataset(source(path, **columns)).iter_rows() for row in table.to_pylist()]


def tar(path, *members):
    with tarfile.open(path, "w") as file:
        for name, data, *kinds in members:
            layouts.add(file, name, data, **(kinds[0] if kinds else {}))
    return path


def test_pictures_captions_and_scores_come_back(tmp_path):
    given = [("a.jpg", b"one", "ein Bär"), ("b.png", b"two!", "b"), ("c.webp", b"three", "c")]
    root = layouts.webdataset(tmp_path / "w", given, per_file=2, punsafe=[0.25, None, 1])
    found, fetch = rows(root), WebDataset(source(root)).read_image_bytes
    assert [row["text"] for row in found] == ["ein Bär", "b", "c"]
    assert [row["punsafe"] for row in found] == [0.25, None, 1.0]
    assert [row["key"].split("#")[0] for row in found] == [
        "00000.tar/000000000.jpg", "00000.tar/000000001.png", "00001.tar/000000002.webp",
    ]  # fmt: skip
    assert [fetch(row["key"]) for row in reversed(found)] == [b"three", b"two!", b"one"]


def test_a_single_tar_is_a_dataset(tmp_path):
    root = layouts.webdataset(tmp_path / "w", [("a.jpg", b"one", "a")])
    (row,) = rows(root / "00000.tar")
    assert WebDataset(source(root / "00000.tar")).read_image_bytes(row["key"]) == b"one"


def test_a_caption_is_the_text_or_the_jsons(tmp_path):
    said = json.dumps({"caption": "from json", "other": "asked for"}).encode()
    path = tar(
        tmp_path / "a.tar",
        ("1.jpg", b"1"), ("1.txt", b"from txt"), ("1.json", said),
        ("2.jpg", b"2"), ("2.json", said),
        ("3.jpg", b"3"), ("3.json", b"{ no json"), ("3.txt", b"three"),
        ("4.jpg", b"4"), ("4.json", b"[4]"),
        ("5.jpg", b"5"), ("5.txt", b"\xff\xfe"),
    )  # fmt: skip
    assert [row["text"] for row in rows(path)] == ["from txt", "from json", "three", None, None]
    assert [row["fault"] for row in rows(path)] == [None] * 4 + ["caption not UTF-8"]
    assert [row["text"] for row in rows(path, text="other")] == ["asked for", "asked for", "three", None, None]


def test_several_captions(tmp_path):
    root = layouts.webdataset(tmp_path / "w", [("a.jpg", b"1", ["one", "two"]), ("b.jpg", b"2", "only")])
    assert [row["text"] for row in rows(root)] == [["one", "two"], ["only"]]


def test_odd_members_are_faults(tmp_path):
    path = tar(
        tmp_path / "a.tar",
        ("../out.jpg", b"1"),
        ("/etc/passwd", b"1"),
        ("link.jpg", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("hard.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "a.jpg"}),
        ("device.jpg", b"", {"type": tarfile.CHRTYPE}),
        ("folder", b"", {"type": tarfile.DIRTYPE}),
        ("a.jpg", b"a"), ("a.txt", b"fine"), ("a.png", b"again"), ("a.txt", b"too"),
        ("lonely.txt", b"no picture"),
    )  # fmt: skip
    special = "link, device or other special member of a tar"
    faults = [(row["key"].split("#")[0], row["fault"]) for row in rows(path) if row["fault"]]
    assert sorted(faults) == [
        ("a.tar/../out.jpg", "name that leads out of the tar"),
        ("a.tar//etc/passwd", "name that leads out of the tar"),
        ("a.tar/device.jpg", special),
        ("a.tar/hard.jpg", special),
        ("a.tar/link.jpg", special),
        ("a.tar/lonely", "caption without picture"),
    ]
    assert [row["text"] for row in rows(path) if not row["fault"]] == ["fine", "too"]


@pytest.mark.parametrize("left", [100, 700, 1600, 2048])
def test_a_tar_that_was_cut_off(tmp_path, left):
    given = [(f"{i}.jpg", b"x" * 600, str(i)) for i in range(4)]
    root = layouts.webdataset(tmp_path / "w", given)
    path = root / "00000.tar"
    whole = [row["key"] for row in rows(root)]
    path.write_bytes(path.read_bytes()[:left])
    found = rows(root)
    assert "tar cut off or damaged" in [row["fault"] for row in found]
    kept = [row["key"] for row in found if not row["fault"]]
    assert kept == whole[: len(kept)] and len(kept) < 4
    with pytest.raises(RejectedImage, match="tar cut off"):
        WebDataset(source(root)).read_image_bytes(whole[-1])


def test_what_follows_damage_is_not_lost_in_silence(tmp_path):
    given = [(f"{i}.jpg", b"x" * 600, str(i)) for i in range(4)]
    root = layouts.webdataset(tmp_path / "w", given)
    path = root / "00000.tar"
    whole = path.read_bytes()
    second = whole.index(b"000000002.jpg")
    for spoilt in (
        whole[:second] + b"\xff" * 512 + whole[second + 512 :],
        whole[:second] + bytes(len(whole) - second + 100_000),  # room that was never filled
        whole + whole,
    ):
        path.write_bytes(spoilt)
        found = rows(root)
        assert [row["fault"] for row in found if row["fault"]] == ["tar cut off or damaged"]
        assert [row["text"] for row in found if not row["fault"]] == ["0", "1", "2", "3"][: len(found) - 1]


def test_odd_values_among_scores_are_their_own_only(tmp_path):
    scores = [0.1, "", "0.3", 10**400, [1], None, True]
    given = [(f"{i}.jpg", b"x", str(i)) for i in range(7)]
    found = rows(layouts.webdataset(tmp_path / "w", given, per_file=9, punsafe=scores))
    assert [row["punsafe"] for row in found] == [0.1, None, 0.3, None, None, None, 1.0]


def test_names_of_all_kinds(tmp_path):
    (tmp_path / "in.tar").mkdir()
    path = tar(
        tmp_path / "in.tar" / "a.tar",
        ("x.tar/1.v2.png", b"one"), ("x.tar/1.v2.txt", b"1"),
        ("b#3+4.jpg", b"two"), ("b#3+4.txt", b"2"),
        ("new\nline.TIF", b"three"), ("new\nline.txt", b"3"),
        ("l\udcff.png", b"four"), ("l\udcff.txt", b"4"),
        ("long" * 60 + ".jpg", b"five"), ("long" * 60 + ".txt", b"5"),
    )  # fmt: skip
    found, fetch = rows(tmp_path), WebDataset(source(tmp_path)).read_image_bytes
    assert [row["text"] for row in found] == ["1", "2", "3", "4", "5"]
    assert [row["fault"] for row in found] == [None, None, None, "file name not UTF-8", None]
    assert [fetch(row["key"]) for row in found if not row["fault"]] == [b"one", b"two", b"three", b"five"]
    assert path.is_file()


def test_sparse_members_are_not_read():
    member = tarfile.TarInfo("s.png")
    member.sparse = [(0, 100)]
    assert _find_member_fault(member, 1000).startswith("link, device")


def test_what_is_no_tar(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"<html>" * 200)
    assert [row["fault"] for row in rows(tmp_path)] == ["tar cut off or damaged"]
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(UserError, match=r"is no tar, nor a folder that holds one; a.tar.gz is compressed"):
        rows(tmp_path)


def test_what_img2dataset_has_not_finished_is_left_out(tmp_path):
    root = layouts.webdataset(tmp_path / "w", [(f"{i}.jpg", b"x", str(i)) for i in range(9)], per_file=3)
    (root / "_tmp").mkdir()
    (root / "_tmp" / "9.tar").write_bytes(b"half")
    for name in ("00000", "00002"):
        (root / f"{name}_stats.json").write_text("{}")
    found = rows(root)
    assert [row["text"] for row in found if not row["fault"]] == ["0", "1", "2", "6", "7", "8"]
    assert [(row["key"], row["fault"]) for row in found if row["fault"]] == [
        ("00001.tar", "tar that img2dataset has not finished")
    ]


# Headers that lie


def header(kind: bytes, size: int, data: bytes = b"") -> bytes:
    """A header of one block that claims `size` bytes, in base 256 where octal cannot, and `data` behind it."""
    member = tarfile.TarInfo("x.jpg")
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size.to_bytes(12, signed=True) if size < 0 else b"\x80" + size.to_bytes(11)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


LYING = {
    "negative": header(tarfile.REGTYPE, -512),
    "negative pax": header(tarfile.XHDTYPE, 13, b"13 size=-512\n") + header(tarfile.REGTYPE, 0),
    "huge": header(tarfile.REGTYPE, 2**70),
    "huge pax": header(tarfile.XHDTYPE, 2**44),
    "huge name": header(tarfile.GNUTYPE_LONGNAME, 2**70),
    "long global": header(tarfile.XGLTYPE, 2**16 + 1, b"1" * (2**16 + 1)),
    "chained": header(tarfile.GNUTYPE_LONGNAME, 4, b"name") * 3000,
    "chained pax": header(tarfile.XHDTYPE, 10, b"10 a=1234\n") * 3000,
    "digits": header(tarfile.XHDTYPE, 2**16, b"1" * 2**16),
    "sparse": header(tarfile.GNUTYPE_SPARSE, 0)[:482] + b"\1" + header(tarfile.GNUTYPE_SPARSE, 0)[483:],
}


@pytest.mark.parametrize("kind", LYING)
def test_what_comes_before_a_lying_header_is_used(tmp_path, kind):
    root = layouts.webdataset(tmp_path / "w", [(f"{i}.jpg", b"x" * 600, str(i)) for i in range(4)])
    path = root / "00000.tar"
    sound = path.read_bytes()[: 4 * (512 + 1024 + 512 + 512 + 512 + 512)]
    path.write_bytes(sound + LYING[kind] + bytes(1024))
    began = time.monotonic()
    found = rows(root)
    assert [row["text"] for row in found if not row["fault"]] == ["0", "1", "2", "3"]
    assert "tar cut off or damaged" in [row["fault"] for row in found]
    assert time.monotonic() - began < 5


def test_long_names_and_pax_headers_are_read(tmp_path):
    for number, form in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        with tarfile.open(tmp_path / f"{number}.tar", "w", format=form, pax_headers={"comment": "x" * 2000}) as file:
            layouts.add(file, "deep/" * 60 + "ä.jpg", b"one", mtime=1234567890.5)
            layouts.add(file, "deep/" * 60 + "ä.txt", b"caption")
    assert [row["text"] for row in rows(tmp_path)] == ["caption", "caption"]


def test_members_are_not_kept(tmp_path):
    root = layouts.webdataset(tmp_path / "w", [(f"{i}.jpg", b"x", str(i)) for i in range(5)])
    with _CheckedTarFile.open(root / "00000.tar", "r:") as file:
        assert [len(file.members) for _ in _iter_members(file)] == [0] * 15


def test_a_failing_disk_stops_and_is_no_damage(tmp_path, monkeypatch):
    root = layouts.webdataset(tmp_path / "w", [("a.jpg", b"x", "a")])
    (row,) = rows(root)

    def fails(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_CheckedTarFile, "open", fails)
    with pytest.raises(UserError, match=r"00000\.tar: .*EIO"):
        rows(root)
    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        WebDataset(source(root)).read_image_bytes(row["key"])


def test_a_picture_of_more_than_a_gigabyte_is_none(tmp_path):
    root = layouts.webdataset(tmp_path / "w", [("a.jpg", b"x", "a")])
    with pytest.raises(RejectedImage, match="file too large"):
        WebDataset(source(root)).read_image_bytes("00000.tar/a.jpg#512+1073741825")
