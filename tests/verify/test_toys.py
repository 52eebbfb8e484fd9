import numpy as np
import pytest
from conftest import ROOT
from diffusers import DiffusionPipeline
from PIL import Image

from prunella.data.buckets import assign_buckets, bucket_sizes
from prunella.encoding.encode import unet_downscale
from prunella.models.families import detect_teacher_family
from prunella.params import Params, load_shipped_defaults, validate_config
from prunella.verify.toys import NUM_IMAGES, TOYS, build_toy_params, write_toys


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toys")
    write_toys(folder, ROOT / "data" / "scenes.yaml")
    return folder


@pytest.mark.parametrize("name", TOYS)
def test_parameters_of_a_toy_are_sound_and_what_the_toy_is_for(name, shared):
    content = build_toy_params(TOYS[name], shared, load_shipped_defaults())
    params = validate_config(Params, content, name)
    assert content["distill"].keys() == load_shipped_defaults()["distill"].keys()
    assert params.encode.text == ("tokens" if name == "tokens" else "embeddings")
    assert (params.distill.gradient_accumulation_steps > 1) == (name == "accumulation")


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_teachers_are_of_both_families(name, shared):
    pipeline = DiffusionPipeline.from_pretrained(shared / name)
    assert detect_teacher_family(dict(pipeline.unet.config)) == name
    assert sum(weight.numel() for weight in pipeline.unet.parameters()) < 2e6


def test_weights_and_pictures_are_the_same_each_time(shared, tmp_path):
    """Tokenizers may differ: `tokenizers` breaks ties by chance, and both versions of the code read the same one."""
    write_toys(tmp_path, ROOT / "data" / "scenes.yaml")
    files = [path for path in shared.rglob("*") if path.suffix in (".safetensors", ".png", ".jsonl")]
    assert len(files) == 3 + 4 + NUM_IMAGES + 1
    for path in files:
        assert path.read_bytes() == (tmp_path / path.relative_to(shared)).read_bytes()


def test_pictures_fall_into_several_buckets(shared):
    encode = validate_config(
        Params, build_toy_params(TOYS["buckets"], shared, load_shipped_defaults()), "buckets"
    ).encode
    among = bucket_sizes(encode.buckets, encode.resolution, 4 * unet_downscale(shared / "sd"))
    pictures = []
    for path in (shared / "pictures").glob("*.png"):
        with Image.open(path) as picture:
            pictures.append(picture.size)
    assert len(pictures) == NUM_IMAGES
    _, counts = np.unique(assign_buckets(np.array(pictures), among, encode.max_upscale), return_counts=True)
    assert len(counts) > 1 and counts.min() > encode.heldout
