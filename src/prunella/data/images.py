"""Pictures as they come: from bytes to RGB or to the reason why not, cut to a size, hashed to find duplicates.

Limits count what does not depend on the machine (pixels, unpacked bytes, scans), so the same pictures are rejected
everywhere. What the machine fails at (memory, disk, file handles) never rejects a picture: it stops the stage.
"""

import errno
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from stat import S_ISREG
from threading import Condition

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError
from scipy.fft import dctn

from prunella.errors import UserError
from prunella.storage.remote import Place, Remote

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow knows more, and runs programs for some
MOST_PIXELS = 89_478_485  # as Pillow's own limit: beyond it lies what is made to fill a memory
MOST_UNPACKED = 4 * MOST_PIXELS  # bytes: 8 bits of RGBA at MOST_PIXELS; 16 bits reach it at half as many
MOST_SCANS = 100  # of a JPEG, as libtiff allows; encoders make about ten, and each costs a pass over all pixels
PER_PIXEL = 20  # bytes held while a pixel is unpacked, at most: of WebP 12 in the decoder, 4 as decoded, 4 as RGB
AT_ONCE = 2 << 30  # bytes that all threads may hold so: one of the largest pictures, or hundreds of usual ones
BAND = 1 << 20  # pixels converted at a time where the conversion needs several copies
MOVING = ("GIF", "WEBP", "PNG")  # formats whose further frames are an animation; a telephone's JPEG may have some too
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # endings of files that may be some
LARGEST = 1 << 30  # bytes of a file; more is no picture
HASH_BITS = 128
TILE_SIDES = (322, 323)  # TIFF tags of a tile's width and length
# Errors that lie in the file asked for. All others (EIO, ESTALE, EMFILE, …) are the machine's.
OF_THE_FILE = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EINVAL,
    errno.ENXIO, errno.ENODEV, errno.EILSEQ,
}  # fmt: skip
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS refuses the same, and it is counted


class RejectedImage(Exception):
    """A picture that is rejected at `criterion`, for a `cause` in a few words that are counted."""

    def __init__(self, cause: str, criterion: str = "broken"):
        super().__init__(cause)
        self.cause, self.criterion = cause, criterion


class Budget:
    """An amount that threads share. A thread must not claim twice at the same time: two such could wait for ever."""

    def __init__(self, most: int):
        self.most, self.taken, self.changed = most, 0, Condition()

    @contextmanager
    def claim(self, amount: int) -> Iterator[None]:
        """Waits until `amount` fits beside what others hold; an amount above `most` waits until nobody holds any."""
        with self.changed:
            self.changed.wait_for(lambda: not self.taken or self.taken + amount <= self.most)
            self.taken += amount
        try:
            yield
        finally:
            with self.changed:
                self.taken -= amount
                self.changed.notify_all()


UNPACKING = Budget(AT_ONCE)


def decoded(data: bytes) -> Image.Image:
    """`unpacked` for a caller that keeps the picture. Raises RejectedImage."""
    with unpacked(data) as picture:
        return picture


@contextmanager
def unpacked(data: bytes) -> Iterator[Image.Image]:
    """The picture as RGB: turned as its EXIF says, transparency laid on white, 16 bits made 8. Raises RejectedImage.

    The format is told by the content, whatever the file is called. Within the block the picture's memory counts towards
    AT_ONCE; other threads wait where it would be exceeded.
    """
    if not data:
        raise RejectedImage("empty file")
    if data[:512].lstrip()[:1] == b"<":
        raise RejectedImage("a web page or other markup")
    with _rejecting(_canvas(data) * PER_PIXEL):
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    with opened:
        with _rejecting():
            _suits(opened, data)
        pixels = opened.width * opened.height
        with UNPACKING.claim(pixels * PER_PIXEL):
            with _rejecting(pixels * PER_PIXEL):
                opened.load()
                ImageOps.exif_transpose(opened, in_place=True)
                picture = _rgb(opened)
            yield picture


def _canvas(data: bytes) -> int:
    """Pixels that a WebP says it has, for which its decoder takes memory as it is opened; 0 of other formats.

    Raises RejectedImage where they are too many. The layout is RFC 9649's, sections 2.5 to 2.7.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0
    kind, place = data[12:16], {b"VP8X": 24, b"VP8L": 21, b"VP8 ": 26}.get(data[12:16], len(data))
    bits = int.from_bytes(data[place : place + 6], "little")
    if kind == b"VP8X":
        width, height = (bits & 0xFFFFFF) + 1, (bits >> 24) + 1
    elif kind == b"VP8L":
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = bits & 0x3FFF, bits >> 16 & 0x3FFF
    if width * height > MOST_PIXELS:
        raise RejectedImage("too many pixels")
    return width * height


@contextmanager
def _rejecting(needed: int = 0) -> Iterator[None]:
    """Turns a decoder's errors into RejectedImage, but for those of the machine; `needed` are the bytes it wanted."""
    try:
        yield
    except (RejectedImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise RejectedImage("no picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedImage("too many pixels") from None
    except Exception as error:  # of damaged files Pillow raises a dozen kinds, struct.error and IndexError among them
        if of_the_machine(error):
            raise
        if "memory" in str(error):  # as Pillow says it, in an OSError
            raise MemoryError(str(error)) from None
        np.empty(needed, np.uint8)  # libwebp and libjpeg do not tell: MemoryError where there is no room
        raise RejectedImage("damaged or cut off") from None


def of_the_machine(error: BaseException) -> bool:
    """Whether an error says nothing about the file that was read: memory, disk, network or file handles failed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in OF_THE_FILE
    return isinstance(error, MemoryError)


@contextmanager
def machine_faults(key: str) -> Iterator[None]:
    """Within the block, errors of the machine become a UserError that names the item `key`."""
    try:
        yield
    except MemoryError:
        raise UserError(
            f"{key}: there was not enough memory to read it, which is no fault of the picture; "
            "lower runtime.workers or give the stage more memory, and run it again"
        ) from None
    except OSError as error:
        if not of_the_machine(error):
            raise
        name = errno.errorcode.get(error.errno or 0, error.errno)
        raise UserError(
            f"{key}: could not be read: {error.strerror or error} ({name}), which is no fault of the picture; "
            "mend the disk, the network or the limit on open files, and run the stage again"
        ) from None


def _suits(opened: Image.Image, data: bytes) -> None:
    """Raises RejectedImage for what would take too much to unpack, and for animations."""
    if opened.width * opened.height > MOST_PIXELS:
        raise RejectedImage("too many pixels")
    if _unpacked_bytes(opened) > MOST_UNPACKED:
        raise RejectedImage("too many bytes when unpacked")
    if data.startswith(b"\xff\xd8") and scans(data) > MOST_SCANS:
        raise RejectedImage("too many scans")
    if opened.format in MOVING and getattr(opened, "is_animated", False):
        raise RejectedImage("animated", "animated")
    if opened.mode in ("I", "F"):
        raise RejectedImage("pixels of no known range")


def _unpacked_bytes(opened: Image.Image) -> int:
    """Bytes of all pixels as the file has them, before they are made 8 bits; of a TIFF those of one tile if more."""
    pixels = opened.width * opened.height
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        width, length = (opened.tag_v2.get(tag, 1) for tag in TILE_SIDES)
        pixels = max(pixels, width * length)
    deep = isinstance(opened, ImageFile.ImageFile) and any("16" in str(tile[3]) for tile in opened.tile)
    return pixels * len(opened.getbands()) * (2 if deep else 1)


def scans(data: bytes) -> int:
    """How many scans a JPEG has, counted without decoding; at least as many as a decoder would come upon."""
    if data.count(b"\xff\xda") <= MOST_SCANS:  # in a scan's data 0xff never stands before 0xda
        return data.count(b"\xff\xda")
    found, at = 0, 2
    while (marker := MARKER.search(data, at)) and (kind := data[marker.end() - 1]) != END:
        found += kind == SCAN
        at = marker.end()
        if kind not in ALONE:
            at += int.from_bytes(data[at : at + 2])
    return found


MARKER = re.compile(rb"\xff+[^\x00\xff]")
SCAN, END = 0xDA, 0xD9
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers that no length follows


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I;16"):  # grey, which Pillow would clip at 255
        return _in_bands(picture, _eight_bits)
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return _in_bands(picture, _on_white)
    return picture.convert("RGB")


def _in_bands(picture: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    made = Image.new("RGB", picture.size)
    rows = max(1, BAND // picture.width)
    for top in range(0, picture.height, rows):
        band = picture.crop((0, top, picture.width, min(top + rows, picture.height)))
        made.paste(convert(band), (0, top))
    return made


def _eight_bits(band: Image.Image) -> Image.Image:
    return Image.fromarray(((np.asarray(band, np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


def _on_white(band: Image.Image) -> Image.Image:
    whole = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")


def read_picture(path: Place) -> Image.Image:
    """`decoded` of a file. Raises RejectedImage."""
    return decoded(read_bytes(path))


def read_bytes(path: Place, most: int = LARGEST) -> bytes:
    """The file's content. Raises RejectedImage where there is none to be had, OSError where the machine fails."""
    try:
        if isinstance(path, Remote):  # whose length would be a question of its own
            data = path.part(0, most + 1)
            if len(data) > most:
                raise RejectedImage("file too large")
            return data
        about = path.stat()
        if not S_ISREG(about.st_mode):  # a pipe would keep us waiting
            raise RejectedImage("no regular file")
        if about.st_size > most:
            raise RejectedImage("file too large")
        return path.read_bytes()
    except FileNotFoundError:
        raise RejectedImage("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        if of_the_machine(error):
            raise
        raise RejectedImage("unreadable file") from None


def fitted(picture: Image.Image, width: int, height: int) -> np.ndarray:
    """The largest middle part of the picture that has the asked proportions, resized, as HWC uint8."""
    box = middle(picture.size, width, height)
    if (box[2] - box[0], box[3] - box[1]) == (width, height):
        return np.asarray(picture.crop(box))
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box=box))


def middle(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a picture of `size` (width, height) that `fitted` takes."""
    wide, high = size
    if wide * height > high * width:
        part = (max(1, round(high * width / height)), high)
    else:
        part = (wide, max(1, round(wide * height / width)))
    left, top = ((whole - taken) // 2 for whole, taken in zip(size, part, strict=True))
    return left, top, left + part[0], top + part[1]


def size_conditioning(size: tuple[int, int], width: int, height: int) -> list[int]:
    """SDXL's six numbers of a `fitted` picture that was of `size`: height and width as they were, crop, as they are.

    The crop's top and left are measured in the resized picture (arXiv 2307.01952, section 2.2; as in diffusers' SDXL
    training script).
    """
    left, top, right, bottom = middle(size, width, height)
    crop = [round(top * height / (bottom - top)), round(left * width / (right - left))]
    return [size[1], size[0], *crop, height, width]


def contrast(picture: Image.Image) -> float:
    """The largest standard deviation of a colour channel, 0 to 127, of the picture made small: 0 where it is blank."""
    return float(_small(picture).std(axis=(0, 1)).max())


def perceptual_hash(picture: Image.Image) -> int:
    """HASH_BITS bits that change little when a picture is resized or compressed anew.

    Each tells whether one of the lowest frequencies of brightness is above their median (Zauner, "Implementation and
    Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1), here of 128 of them, without the mean.
    """
    grey = _small(picture) @ np.array([0.299, 0.587, 0.114])
    lowest = dctn(grey, norm="ortho")[:16, :16]
    down, across = np.indices(lowest.shape)
    order = np.lexsort((across.ravel(), (down + across).ravel()))[1 : HASH_BITS + 1]
    values = lowest.ravel()[order]
    return int.from_bytes(np.packbits(values > np.median(values)).tobytes())


def _small(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.resize((32, 32), Image.Resampling.BOX, reducing_gap=2.0), np.float64)
