import json

from PIL import Image

from prunella.data.examples import write_examples
from prunella.data.images import RejectedImage
from prunella.data.rejections import Example


def test_thumbnails_and_a_list(tmp_path):
    pictures = {"a.png": Image.new("RGB", (400, 100), "red"), "b.png": Image.new("RGB", (10, 12))}

    def picture(key: str) -> Image.Image:
        if key == "web":
            raise RejectedImage("a web page")
        return pictures[key].copy()  # KeyError of others

    examples = {
        "kept": [Example("a.png", "a ü", "")],
        "small": [Example("b.png", "b", "why"), Example("web", "c", ""), Example("gone", "d", "")],
    }
    write_examples(tmp_path / "out", examples, picture)
    listed = json.loads((tmp_path / "out" / "examples.json").read_text(encoding="utf-8"))
    assert listed == {
        "kept": [{"key": "a.png", "text": "a ü", "note": "", "image": "kept-0.jpg"}],
        "small": [
            {"key": "b.png", "text": "b", "note": "why", "image": "small-0.jpg"},
            {"key": "web", "text": "c", "note": "a web page", "image": None},
            {"key": "gone", "text": "d", "note": "no picture", "image": None},
        ],
    }
    sizes = {}
    for path in (tmp_path / "out").glob("*.jpg"):
        with Image.open(path) as thumbnail:
            sizes[path.name] = thumbnail.size
    assert sizes == {"kept-0.jpg": (144, 36), "small-0.jpg": (10, 12)}
