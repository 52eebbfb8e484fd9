import pytest
from known import SD15, SD21, SDXL

from prunella.errors import UserError
from prunella.models.families import FAMILIES, detect_teacher_family, family_of_unet, predict_with_unet
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import STUDENTS


def test_families_are_told_by_block_types_not_by_widths():
    assert detect_teacher_family(SD15) == "sd"
    assert detect_teacher_family(SD15 | {"block_out_channels": [7, 14, 28, 28], "cross_attention_dim": 1024}) == "sd"
    assert detect_teacher_family(SDXL) == "sdxl"


@pytest.mark.parametrize(
    "changes",
    [
        {"transformer_layers_per_block": [1, 2, 4]},
        {"transformer_layers_per_block": [1, [2, 1], 10]},
        {"mid_block_type": None},
        {"layers_per_block": 1},
    ],
)
def test_a_student_is_not_of_its_teachers_family(changes):
    assert detect_teacher_family(SDXL) == "sdxl"
    assert detect_teacher_family(SDXL | changes) is None


@pytest.mark.parametrize("types", [(), ("DownBlock2D",), tuple(SD15["down_block_types"][::-1])])
def test_anything_else_is_of_no_family(types):
    assert detect_teacher_family({"down_block_types": types}) is None


def test_a_student_is_called_as_its_teacher():
    assert family_of_unet(SD15) is family_of_unet(SD21) is FAMILIES["sd"]
    for student in ("ssd-1b", "koala-700m"):
        assert family_of_unet(student_config(STUDENTS[student], SDXL)) is FAMILIES["sdxl"]
    assert family_of_unet(student_config(STUDENTS["sd-tiny"], SD15)) is FAMILIES["sd"]
    with pytest.raises(UserError, match=r"addition_embed_type is 'image'"):
        family_of_unet(SDXL | {"addition_embed_type": "image"})


@pytest.mark.parametrize(
    ("config", "shapes"),
    [
        (SD15, {"latents": (4, 64, 48), "states": (77, 768)}),
        (SD21, {"latents": (4, 64, 48), "states": (77, 1024)}),
        (SDXL, {"latents": (4, 64, 48), "states": (77, 2048), "pooled": (1280,), "sizes": (6,)}),
    ],
)
def test_an_example_has_the_published_shapes(config, shapes):
    assert family_of_unet(config).example_shapes(config, (64, 48), 77) == shapes


class Recorder:
    """Stands for a UNet: notes what it is called with."""

    def __init__(self, config: dict | None):
        if config:
            self.config = config

    def __call__(self, *given, **named):
        self.given, self.named = given, named
        return type("Output", (), {"sample": "prediction"})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (None, {}),
        (SD15, {}),
        (SDXL, {"added_cond_kwargs": {"text_embeds": "pooled", "time_ids": "sizes"}}),
    ],
)
def test_a_prediction_is_asked_for_as_the_architecture_needs_it(config, named):
    unet = Recorder(config)
    batch = {"states": "states", "pooled": "pooled", "sizes": "sizes", "latents": "not this"}
    assert predict_with_unet(unet, "noisy", "timesteps", batch) == "prediction"
    assert (unet.given, unet.named) == (("noisy", "timesteps", "states"), named)
