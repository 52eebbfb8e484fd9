"""Pictures as they come: from bytes to RGB or to the reason why not, cut to a size, hashed to find duplicates.

Limits count what does not depend on the machine (pixels, unpacked bytes, scans), so the same pictures are rejected
everywhere. A failure of the machine (memory, disk, file handles) never rejects a picture: it stops the stage.
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
from prunella.storage.remote import PathOrRemote, RemotePath

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow knows more, and runs programs for some
MAX_PIXELS = 89_478_485  # as Pillow's own limit: beyond it lies what is made to fill a memory
MAX_DECODED_BYTES = 4 * MAX_PIXELS  # bytes: 8 bits of RGBA at MOST_PIXELS; 16 bits reach it at half as many
MAX_JPEG_SCANS = 100  # of a JPEG, as libtiff allows; encoders make about ten, and each costs a pass over all pixels
BYTES_PER_PIXEL = 20  # bytes held while a pixel is unpacked, at most: of WebP 12 in the decoder, 4 as decoded, 4 as RGB
DECODE_MEMORY_BYTES = (
    2 << 30
)  # bytes that all threads may hold so: one of the largest pictures, or hundreds of usual ones
BAND_PIXELS = 1 << 20  # pixels converted at a time where the conversion needs several copies
ANIMATED_FORMATS = (
    "GIF",
    "WEBP",
    "PNG",
)  # formats whose further frames are an animation; a telephone's JPEG may have some too
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
)  # endings of files that may be some
MAX_FILE_BYTES = 1 << 30  # bytes of a file; more is no picture
HASH_BITS = 128
TIFF_TILE_TAGS = (322, 323)  # TIFF tags of a tile's width and length
# Errors that lie in the file asked for. All others (EIO, ESTALE, EMFILE, …) are the machine's.
FILE_ERRNOS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EINVAL,
    errno.ENXIO, errno.ENODEV, errno.EILSEQ,
}  # fmt: skip
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS refuses the same, and it is counted


class RejectedImage(Exception):
    """A picture that is rejected at `criterion`, for a `cause` in a few words that are counted."""

    def __init__(self, cause: str, criterion: str = "broken"):
        super().__init__(cause)
        self.cause, self.criterion = cause, criterion


class MemoryBudget:
    """An amount that threads share. A thread must not claim twice at the same time: two such could wait for ever."""

    def __init__(self, limit: int):
        self.limit, self.used, self.condition = limit, 0, Condition()

    @contextmanager
    def acquire(self, amount: int) -> Iterator[None]:
        """Waits until `amount` fits beside what others hold; an amount above `limit` waits until nobody holds any."""
        with self.condition:
            self.condition.wait_for(lambda: not self.used or self.used + amount <= self.limit)
            self.used += amount
        try:
            yield
        finally:
            with self.condition:
                self.used -= amount
                self.condition.notify_all()


DECODE_BUDGET = MemoryBudget(DECODE_MEMORY_BYTES)


def decode_image(data: bytes) -> Image.Image:
    """`open_rgb` for a caller that keeps the picture. Raises RejectedImage."""
    with open_rgb(data) as image:
        return image


@contextmanager
def open_rgb(data: bytes) -> Iterator[Image.Image]:
    """The picture as RGB: turned as its EXIF says, transparency laid on white, 16 bits made 8. Raises RejectedImage.

    The format is told by the content, whatever the file is called. Within the block the picture's memory counts towards
    AT_ONCE; other threads wait where it would be exceeded.
    """
    if not data:
        raise RejectedImage("empty file")
    if data[:512].lstrip()[:1] == b"<":
        raise RejectedImage("a web page or other markup")
    with _reject_decode_errors(_webp_pixels(data) * BYTES_PER_PIXEL):
        pil_image = Image.open(io.BytesIO(data), formats=FORMATS)
    with pil_image:
        with _reject_decode_errors():
            _check_image_limits(pil_image, data)
        pixels = pil_image.width * pil_image.height
        with DECODE_BUDGET.acquire(pixels * BYTES_PER_PIXEL):
            with _reject_decode_errors(pixels * BYTES_PER_PIXEL):
                pil_image.load()
                ImageOps.exif_transpose(pil_image, in_place=True)
                rgb_image = _to_rgb(pil_image)
            yield rgb_image


def _webp_pixels(data: bytes) -> int:
    """Pixels that a WebP says it has, for which its decoder takes memory as it is opened; 0 of other formats.

    Raises RejectedImage where they are too many. The layout is RFC 9649's, sections 2.5 to 2.7.
    """
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return 0
    chunk_type, offset = data[12:16], {b"VP8X": 24, b"VP8L": 21, b"VP8 ": 26}.get(data[12:16], len(data))
    bits = int.from_bytes(data[offset : offset + 6], "little")
    if chunk_type == b"VP8X":
        width, height = (bits & 0xFFFFFF) + 1, (bits >> 24) + 1
    elif chunk_type == b"VP8L":
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = bits & 0x3FFF, bits >> 16 & 0x3FFF
    if width * height > MAX_PIXELS:
        raise RejectedImage("too many pixels")
    return width * height


@contextmanager
def _reject_decode_errors(needed_bytes: int = 0) -> Iterator[None]:
    """Turns a decoder's errors into RejectedImage, but for those of the machine.

    `needed_bytes` are the bytes it wanted.
    """
    try:
        yield
    except (RejectedImage, MemoryError):
        raise
    except UnidentifiedImageError:
        raise RejectedImage("no picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedImage("too many pixels") from None
    except Exception as error:  # of damaged files Pillow raises a dozen kinds, struct.error and IndexError among them
        if is_system_error(error):
            raise
        if "memory" in str(error):  # as Pillow says it, in an OSError
            raise MemoryError(str(error)) from None
        np.empty(needed_bytes, np.uint8)  # libwebp and libjpeg do not tell: MemoryError where there is no room
        raise RejectedImage("damaged or cut off") from None


def is_system_error(error: BaseException) -> bool:
    """Whether an error says nothing about the file that was read: memory, disk, network or file handles failed."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno not in FILE_ERRNOS
    return isinstance(error, MemoryError)


@contextmanager
def raise_system_errors(key: str) -> Iterator[None]:
    """Within the block, errors of the machine become a UserError that names the item `key`."""
    try:
        yield
    except MemoryError:
        raise UserError(
            f"{key}: there was not enough memory to read it, which is no fault of the picture; "
            "lower runtime.workers or give the stage more memory, and run it again"
        ) from None
    except OSError as error:
        if not is_system_error(error):
            raise
        name = errno.errorcode.get(error.errno or 0, error.errno)
        raise UserError(
            f"{key}: could not be read: {error.strerror or error} ({name}), which is no fault of the picture; "
            "mend the disk, the network or the limit on open files, and run the stage again"
        ) from None


def _check_image_limits(image: Image.Image, data: bytes) -> None:
    """Raises RejectedImage for what would take too much to unpack, and for animations."""
    if image.width * image.height > MAX_PIXELS:
        raise RejectedImage("too many pixels")
    if _count_decoded_bytes(image) > MAX_DECODED_BYTES:
        raise RejectedImage("too many bytes when unpacked")
    if data.startswith(b"\xff\xd8") and count_jpeg_scans(data) > MAX_JPEG_SCANS:
        raise RejectedImage("too many scans")
    if image.format in ANIMATED_FORMATS and getattr(image, "is_animated", False):
        raise RejectedImage("animated", "animated")
    if image.mode in ("I", "F"):
        raise RejectedImage("pixels of no known range")


def _count_decoded_bytes(image: Image.Image) -> int:
    """Bytes of all pixels as the file has them, before they are made 8 bits; of a TIFF those of one tile if more."""
    pixels = image.width * image.height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        width, length = (image.tag_v2.get(tag, 1) for tag in TIFF_TILE_TAGS)
        pixels = max(pixels, width * length)
    is_16_bit = isinstance(image, ImageFile.ImageFile) and any("16" in str(tile[3]) for tile in image.tile)
    return pixels * len(image.getbands()) * (2 if is_16_bit else 1)


def count_jpeg_scans(data: bytes) -> int:
    """How many scans a JPEG has, counted without decoding; at least as many as a decoder would come upon."""
    if data.count(b"\xff\xda") <= MAX_JPEG_SCANS:  # in a scan's data 0xff never stands before 0xda
        return data.count(b"\xff\xda")
    count, position = 0, 2
    while (marker := JPEG_MARKER.search(data, position)) and (kind := data[marker.end() - 1]) != END_OF_IMAGE:
        count += kind == START_OF_SCAN
        position = marker.end()
        if kind not in STANDALONE_MARKERS:
            position += int.from_bytes(data[position : position + 2])
    return count


JPEG_MARKER = re.compile(rb"\xff+[^\x00\xff]")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
STANDALONE_MARKERS = {0x01, *range(0xD0, 0xD9)}  # markers that no length follows


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):  # grey, which Pillow would clip at 255
        return _convert_in_bands(image, _to_8_bit)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _convert_in_bands(image, _composite_on_white)
    return image.convert("RGB")


def _convert_in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    result = Image.new("RGB", image.size)
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(convert(band), (0, top))
    return result


def _to_8_bit(band: Image.Image) -> Image.Image:
    return Image.fromarray(((np.asarray(band, np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")


def _composite_on_white(band: Image.Image) -> Image.Image:
    rgba = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def load_image(path: PathOrRemote) -> Image.Image:
    """`decode_image` of a file. Raises RejectedImage."""
    return decode_image(read_file_bytes(path))


def read_file_bytes(path: PathOrRemote, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The file's content. Raises RejectedImage where there is none to be had, OSError where the machine fails."""
    try:
        if isinstance(path, RemotePath):  # whose length would be a question of its own
            data = path.read_range(0, max_bytes + 1)
            if len(data) > max_bytes:
                raise RejectedImage("file too large")
            return data
        status = path.stat()
        if not S_ISREG(status.st_mode):  # a pipe would keep us waiting
            raise RejectedImage("no regular file")
        if status.st_size > max_bytes:
            raise RejectedImage("file too large")
        return path.read_bytes()
    except FileNotFoundError:
        raise RejectedImage("no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        if is_system_error(error):
            raise
        raise RejectedImage("unreadable file") from None


def center_crop_resize(image: Image.Image, width: int, height: int) -> np.ndarray:
    """The largest middle part of the picture that has the asked proportions, resized, as HWC uint8."""
    box = center_crop_box(image.size, width, height)
    if (box[2] - box[0], box[3] - box[1]) == (width, height):
        return np.asarray(image.crop(box))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box))


def center_crop_box(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a picture of `size` (width, height) that `center_crop_resize`
    takes.
    """
    source_width, source_height = size
    if source_width * height > source_height * width:
        crop = (max(1, round(source_height * width / height)), source_height)
    else:
        crop = (source_width, max(1, round(source_width * height / width)))
    left, top = ((length - crop_length) // 2 for length, crop_length in zip(size, crop, strict=True))
    return left, top, left + crop[0], top + crop[1]


def size_conditioning(size: tuple[int, int], width: int, height: int) -> list[int]:
    """SDXL's six numbers of a `center_crop_resize` picture that was of `size`: height and width as they were, crop, as
    they are.

    The crop's top and left are measured in the resized picture (arXiv 2307.01952, section 2.2; as in diffusers' SDXL
    training script).
    """
    left, top, right, bottom = center_crop_box(size, width, height)
    crop = [round(top * height / (bottom - top)), round(left * width / (right - left))]
    return [size[1], size[0], *crop, height, width]


def measure_contrast(image: Image.Image) -> float:
    """The largest standard deviation of a colour channel, 0 to 127, of the picture made small: 0 where it is blank."""
    return float(_downscale(image).std(axis=(0, 1)).max())


def perceptual_hash(image: Image.Image) -> int:
    """HASH_BITS bits that change little when a picture is resized or compressed anew.

    Each tells whether one of the lowest frequencies of brightness is above their median (Zauner, "Implementation and
    Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1), here of 128 of them, without the mean.
    """
    gray = _downscale(image) @ np.array([0.299, 0.587, 0.114])
    lowest = dctn(gray, norm="ortho")[:16, :16]
    down, across = np.indices(lowest.shape)
    order = np.lexsort((across.ravel(), (down + across).ravel()))[1 : HASH_BITS + 1]
    values = lowest.ravel()[order]
    return int.from_bytes(np.packbits(values > np.median(values)).tobytes())


def _downscale(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX, reducing_gap=2.0), np.float64)
