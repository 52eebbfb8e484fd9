import numpy as np
import pytest
from conftest import ROOT
from diffusers import DiffusionPipeline
from PIL import Image

from prunella.data.buckets import assigned, sizes
from prunella.encoding.encode import halved
from prunella.models.families import family
from prunella.params import Params, check, shipped_defaults
from prunella.verify.toys import PICTURES, TOYS, toy_params, write_toys


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    write_toys(folder, ROOT / "data" / "scenes.yaml")
    return folder


@pytest.mark.parametrize("name", TOYS)
def test_parameters_of_a_toy_are_sound_and_what_the_toy_is_for(name, shared):
    content = toy_params(TOYS[name], shared, shipped_defaults())
    params = check(Params, content, name)
    assert content["distill"].keys() == shipped_defaults()["distill"].keys()
    assert params.encode.text == ("tokens" if name == "tokens" else "embeddings")
    assert (params.distill.accumulation > 1) == (name == "accumulation")


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_teachers_are_of_both_families(name, shared):
    pipeline = DiffusionPipeline.from_pretrained(shared / name)
    assert family(dict(pipeline.unet.config)) == name
    assert sum(weight.numel() for weight in pipeline.unet.parameters()) < 2e6


def test_weights_and_pictures_are_the_same_each_time(shared, tmp_path):
    """Tokenizers may differ: `tokenizers` breaks ties by chance, and both versions of the code read the same one."""
    write_toys(tmp_path, ROOT / "data" / "scenes.yaml")
    files = [path for path in shared.rglob("*") if path.suffix in (".safetensors", ".png", ".jsonl")]
    assert len(files) == 3 + 4 + PICTURES + 1
    for path in files:
        assert path.read_bytes() == (tmp_path / path.relative_to(shared)).read_bytes()


def test_pictures_fall_into_several_buckets(shared):
    encode = check(Params, toy_params(TOYS["buckets"], shared, shipped_defaults()), "buckets").encode
    among = sizes(encode.buckets, encode.resolution, 4 * halved(shared / "sd"))
    pictures = []
    for path in (shared / "pictures").glob("*.png"):
        with Image.open(path) as picture:
            pictures.append(picture.size)
    assert len(pictures) == PICTURES
    _, counts = np.unique(assigned(np.array(pictures), among, encode.max_upscale), return_counts=True)
    assert len(counts) > 1 and counts.min() > encode.heldout
