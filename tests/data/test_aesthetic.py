import numpy as np
import pytest
import torch
from networks import SIDE, TOWER, WIDTH
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection

from prunella.data.aesthetic import AestheticScorer, Processor
from prunella.errors import UserError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's CLIP
TEXT = {
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A toy CLIP's vision tower, its weights random, stored in half precision as many are."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER, projection_dim=WIDTH))
    model.half().save_pretrained(folder)
    preprocessor(folder)
    return folder


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """The older kind of head, one linear layer."""
    torch.manual_seed(1)
    head = tmp_path_factory.mktemp("head") / "linear.pth"
    torch.save(torch.nn.Linear(WIDTH, 1).state_dict(), head)
    return head


def preprocessor(folder):
    Processor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(folder)


def picture(seed, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


@torch.no_grad()
def embedding(clip, shown):
    """By plain transformers and by hand: unit length, float64."""
    model = CLIPVisionModelWithProjection.from_pretrained(clip, dtype=torch.float32)
    pixels = (np.asarray(shown, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    found = model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).image_embeds[0].double().numpy()
    return found / np.sqrt((found**2).sum())


def test_one_linear_layer_scores_the_unit_embedding(clip, linear):
    weight, bias = (tensor.double().numpy() for tensor in torch.load(linear).values())
    shown = [picture(0), picture(1), picture(2)]
    expected = [float(weight[0] @ embedding(clip, one) + bias[0]) for one in shown]
    assert AestheticScorer(linear, clip, "cpu")(shown) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3


def test_a_chain_of_layers_is_applied_in_numeric_order(clip, tmp_path):
    """Eleven layers, so that layers.10 comes before layers.2 in the alphabet; the last two with no dropout between."""
    torch.manual_seed(2)
    layers = [torch.nn.Linear(WIDTH, WIDTH) for _ in range(10)] + [torch.nn.Linear(WIDTH, 1)]
    places = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 19]
    state = {
        f"layers.{at}.{kind}": getattr(layer, kind).detach() * 2
        for at, layer in zip(places, layers, strict=True)
        for kind in ("weight", "bias")
    }
    save_file(state, tmp_path / "head.safetensors")
    torch.save(state, tmp_path / "head.pt")
    value = embedding(clip, picture(3))
    for at in places:
        value = state[f"layers.{at}.weight"].double().numpy() @ value + state[f"layers.{at}.bias"].double().numpy()
    for name in ("head.safetensors", "head.pt"):
        assert AestheticScorer(tmp_path / name, clip, "cpu")([picture(3)]) == pytest.approx([float(value[0])], abs=1e-4)


def test_layers_may_do_without_a_bias(clip, tmp_path):
    save_file({"weight": torch.eye(WIDTH)[4:5].contiguous()}, tmp_path / "head.safetensors")
    (score,) = AestheticScorer(tmp_path / "head.safetensors", clip, "cpu")([picture(4)])
    assert score == pytest.approx(embedding(clip, picture(4))[4], abs=1e-5)


def test_pictures_are_cut_to_the_centre_whatever_their_mode(clip, linear):
    aesthetic = AestheticScorer(linear, clip, "cpu")
    wide = Image.new("RGB", (3 * SIDE, SIDE))
    wide.paste(picture(5), (SIDE, 0))
    big = Image.new("L", (5 * SIDE, 3 * SIDE), 90)
    scores = aesthetic([picture(5), wide, Image.new("RGB", (SIDE, SIDE), (90, 90, 90)), big, picture(5, "RGBA")])
    assert scores == pytest.approx([scores[0], scores[0], scores[2], scores[2], scores[0]], abs=1e-5)
    assert scores[0] != pytest.approx(scores[2], abs=1e-3)
    assert aesthetic([]) == []


def test_of_a_whole_clip_the_vision_tower_is_taken(linear, tmp_path):
    torch.manual_seed(6)
    whole = CLIPModel(CLIPConfig(vision_config=TOWER, text_config=TEXT, projection_dim=WIDTH)).eval()
    whole.save_pretrained(tmp_path)
    preprocessor(tmp_path)
    weight, bias = torch.load(linear).values()
    with torch.no_grad():
        pixels = Processor.from_pretrained(tmp_path)([picture(6)], return_tensors="pt").pixel_values
        found = whole.visual_projection(whole.vision_model(pixels).pooler_output)[0]
        expected = found / found.norm() @ weight[0] + bias[0]
    assert AestheticScorer(linear, tmp_path, "cpu")([picture(6)]) == pytest.approx([float(expected)], abs=1e-5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"weight": (1, 7), "bias": (1,)}, r"embeddings of width 7, but the CLIP in .* gives 10; take the CLIP that"),
        (
            {"layers.0.weight": (5, 10), "layers.2.weight": (1, 6)},
            r"layers.2.weight takes 6 .* layers.0.weight gives 5",
        ),
        ({"layers.0.weight": (5, 10), "layers.3.weight": (1, 5)}, r"more than dropout, likely an activation"),
        (
            {"layers.0.weight": (5, 10), "layers.2.weight": (3, 5)},
            r"layers.2.weight gives 3 values; .* last layer gives 1",
        ),
        ({"weight": (1, 10), "bias": (2,)}, r"the bias of weight is \[2\], not \[1\]"),
        ({"weight": (1, 10), "running_mean": (10,)}, r"no head of linear layers: .* got running_mean"),
        ({"conv.weight": (1, 10, 3, 3)}, r"no head of linear layers: .* got conv.weight"),
        ({}, r"no head of linear layers: .* got nothing"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(clip, tmp_path, shapes, message):
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "head.pth")
    with pytest.raises(UserError, match=message):
        AestheticScorer(tmp_path / "head.pth", clip, "cpu")


def test_files_that_are_no_head_are_refused(clip, tmp_path):
    with pytest.raises(UserError, match=r"none.pth: there is no such file"):
        AestheticScorer(tmp_path / "none.pth", clip, "cpu")
    for name, content, message in (
        ("head.json", b"{}", r"head.json: a head is a .safetensors, .pth or .pt file"),
        ("cut.safetensors", b"\x20\0\0\0\0\0\0\0{}", r"cut.safetensors: is no whole safetensors file"),
        ("text.pth", b"no pickle", r"text.pth: cannot be loaded as plain tensors"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            AestheticScorer(tmp_path / name, clip, "cpu")
    torch.save(torch.nn.Linear(WIDTH, 1), tmp_path / "module.pth")  # a pickled object, not tensors
    with pytest.raises(UserError, match=r"module.pth: cannot be loaded as plain tensors"):
        AestheticScorer(tmp_path / "module.pth", clip, "cpu")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth: is no state dict"):
        AestheticScorer(tmp_path / "other.pth", clip, "cpu")


def test_folders_that_are_no_clip_are_refused(linear, tmp_path):
    with pytest.raises(UserError, match=r"clip: has no config.json; a transformers folder of a CLIP"):
        AestheticScorer(linear, tmp_path / "clip", "cpu")
    CLIPVisionModel(CLIPVisionConfig(**TOWER)).save_pretrained(tmp_path / "clip")
    with pytest.raises(UserError, match=r"clip: has no preprocessor_config.json"):
        AestheticScorer(linear, tmp_path / "clip", "cpu")
    preprocessor(tmp_path / "clip")
    with pytest.raises(UserError, match=r"clip: has no visual_projection.weight \(1 missing in all\)"):
        AestheticScorer(linear, tmp_path / "clip", "cpu")
    (tmp_path / "clip" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"clip: cannot be loaded as a CLIP: .*model.safetensors"):
        AestheticScorer(linear, tmp_path / "clip", "cpu")
