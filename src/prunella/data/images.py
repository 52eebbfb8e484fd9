"""Pictures as they come: from bytes to RGB or to the cause why not, cut to a size, known again when seen twice."""

import io
import warnings
from pathlib import Path
from stat import S_ISREG

import numpy as np
from PIL import Image, ImageOps
from scipy.fft import dctn

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow knows more, and runs programs for some
MOST_PIXELS = 89_478_485  # as Pillow's own limit: beyond it lies what is made to fill a memory
MOVING = ("GIF", "WEBP", "PNG")  # formats whose further frames are an animation; a telephone's JPEG may have some too
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")  # endings of files that may be some
LARGEST = 1 << 30  # bytes of a file; more is no picture
HASH_BITS = 128
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS refuses the same, and it is counted


class RejectedImage(Exception):
    """A picture that falls out at `criterion`, for a `cause` in a few words that are counted."""

    def __init__(self, cause: str, criterion: str = "broken"):
        super().__init__(cause)
        self.cause, self.criterion = cause, criterion


def decoded(data: bytes) -> Image.Image:
    """The picture as RGB: turned as its EXIF says, transparency laid on white, 16 bits made 8. Raises Unfit.

    What it is is told by its content, whatever its name says.
    """
    if not data:
        raise RejectedImage("empty file")
    if data[:512].lstrip()[:1] == b"<":
        raise RejectedImage("a web page or other markup")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _suits(opened)
            opened.load()
            return _rgb(ImageOps.exif_transpose(opened))
    except RejectedImage:
        raise
    except Image.UnidentifiedImageError:
        raise RejectedImage("no picture") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedImage("too many pixels") from None
    except Exception:  # of damaged files Pillow raises a dozen kinds, struct.error and IndexError among them
        raise RejectedImage("damaged or cut off") from None


def _suits(opened: Image.Image) -> None:
    if opened.width * opened.height > MOST_PIXELS:
        raise RejectedImage("too many pixels")
    if opened.format in MOVING and getattr(opened, "n_frames", 1) > 1:
        raise RejectedImage("animated", "animated")


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F"):
        raise RejectedImage("pixels of no known range")
    if picture.mode.startswith("I;16"):  # grey, which Pillow would clip at 255
        return Image.fromarray(((np.asarray(picture, np.uint32) + 128) // 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    return picture.convert("RGB")


def read_picture(path: Path) -> Image.Image:
    """`decoded` of a file. Raises Unfit."""
    return decoded(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises Unfit where there is none to be had."""
    try:
        about = path.stat()
        if not S_ISREG(about.st_mode):  # a pipe would keep us waiting
            raise RejectedImage("no regular file")
        if about.st_size > LARGEST:
            raise RejectedImage("file too large")
        return path.read_bytes()
    except FileNotFoundError:
        raise RejectedImage("no such file") from None
    except (OSError, ValueError):  # ValueError: a name with a NUL
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
