import pytest
import torch
from conftest import DISTILLING, LATENT, TOKENS, WIDTH
from diffusers import UNet2DConditionModel

from prunella.models.families import family_of_unet
from prunella.models.pipeline import load_unet
from prunella.models.reference_configs import load_teacher_config
from prunella.params import Distill, recipes, validate_config
from prunella.params.recipes import list_recipes
from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import STUDENTS
from prunella.training.memory_estimate import (
    USABLE_FRACTION,
    MemorySpec,
    choose_micro_batch,
    count_parameters,
    device_memory,
    estimate_memory,
    format_savers,
    largest_layer,
    memory_savers,
)

EXAMPLE = {"latents": (4, LATENT, LATENT), "states": (TOKENS, WIDTH)}


def settings(**changes) -> Distill:
    return validate_config(Distill, DISTILLING | {"ema_decay": 0.0} | changes, "distill")


@pytest.fixture
def configs(teacher) -> tuple[dict, dict]:
    config = {name: value for name, value in load_unet(teacher).config.items() if not name.startswith("_")}
    return student_config(STUDENTS["sd-tiny"], config), config


def test_what_follows_from_the_parameters(configs):
    small, large = map(count_parameters, configs)
    plain = estimate_memory(MemorySpec(*configs, EXAMPLE, other_bytes=7), settings())
    assert plain[:6] == (4 * small, 4 * small, 8 * small, 0, 4 * large, 7)
    half = estimate_memory(
        MemorySpec(*configs, EXAMPLE), settings(precision="bf16", optimizer="adamw-8bit", ema_decay=0.9)
    )
    assert half[:5] == (6 * small, 4 * small, 2 * small, 4 * small, 2 * large)
    assert estimate_memory(MemorySpec(configs[0], None, EXAMPLE), settings()).teacher == 0
    assert plain.total == sum(plain)


def kept(unet: UNet2DConditionModel, batch: int) -> int:
    """Bytes that autograd really keeps of a forward pass, the weights apart."""
    weights = {part.data_ptr() for part in unet.parameters()}
    seen = {}

    def note(tensor):
        if tensor.data_ptr() not in weights:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = unet(torch.randn(batch, *EXAMPLE["latents"]), torch.zeros(batch), torch.randn(batch, TOKENS, WIDTH))
        size = sum(storage.nbytes() for storage in seen.values())
    del output
    return size


def test_activations_are_those_that_autograd_keeps(configs):
    unet = UNet2DConditionModel.from_config(configs[0]).train()
    real = kept(unet, 5) - kept(unet, 2)
    assert estimate_memory(MemorySpec(*configs, EXAMPLE), settings(batch_size=3)).activations == pytest.approx(
        real, rel=0.01
    )


def test_features_are_the_teachers_and_their_differences(configs):
    hooked = "down_blocks.0", "up_blocks.2"
    # The toy's widths are 32 and more; the first down stage ends at 4×4 latent pixels, the last up stage at 8×8.
    elements = (
        configs[0]["block_out_channels"][0] * (LATENT // 2) ** 2 + configs[0]["block_out_channels"][0] * LATENT**2
    )
    assert (
        estimate_memory(MemorySpec(*configs, EXAMPLE, hooked_modules=hooked), settings(batch_size=3)).features
        == 3 * 8 * elements
    )
    half = settings(batch_size=3, precision="bf16")
    assert estimate_memory(MemorySpec(*configs, EXAMPLE, hooked_modules=hooked), half).features == 3 * 6 * elements


def test_a_gpu_keeps_norms_in_fp32(configs):
    half = settings(precision="bf16")
    cpu, gpu = (estimate_memory(MemorySpec(*configs, EXAMPLE, gpu=gpu), half).activations for gpu in (False, True))
    assert 1.1 * cpu < gpu < 2 * cpu
    assert estimate_memory(MemorySpec(*configs, EXAMPLE, gpu=True), settings()) == estimate_memory(
        MemorySpec(*configs, EXAMPLE), settings()
    )


def test_checkpointing_keeps_less_and_processes_share(configs):
    subject = MemorySpec(*configs, EXAMPLE)
    plain = estimate_memory(subject, settings(batch_size=6)).activations
    assert 0 < estimate_memory(subject, settings(batch_size=6, gradient_checkpointing=True)).activations < 0.6 * plain
    assert estimate_memory(subject._replace(processes=3), settings(batch_size=6)).activations == plain // 3


def test_every_knob_says_what_it_buys(configs):
    small = count_parameters(configs[0])
    savings = memory_savers(MemorySpec(*configs, EXAMPLE), settings(batch_size=6, ema_decay=0.9))
    assert list(savings) == [
        "runtime.micro_batch: 3",
        "gradient_checkpointing: true",
        "optimizer: adamw-8bit",
        "ema_decay: 0",
        "precision: bf16",
    ]
    assert savings["optimizer: adamw-8bit"] == 6 * small and savings["ema_decay: 0"] == 4 * small
    used = settings(batch_size=1, gradient_checkpointing=True, optimizer="adamw-8bit", precision="bf16")
    assert memory_savers(MemorySpec(*configs, EXAMPLE), used) == {}


def test_cutting_weights_is_advised_where_processes_are_several(configs):
    alone = MemorySpec(*configs, EXAMPLE, processes=8)
    cut, plain = alone._replace(num_shards=8), settings(batch_size=8)
    saved = estimate_memory(alone, plain).total - estimate_memory(cut, plain).total
    assert saved > 0 and memory_savers(alone, plain)["runtime.fsdp: true"] == saved
    for subject, changed in ((cut, plain), (alone, settings(batch_size=8, optimizer="adamw-8bit"))):
        assert "runtime.fsdp: true" not in memory_savers(subject, changed)
    assert "runtime.fsdp: true" not in memory_savers(alone._replace(other_bytes=7), plain)  # text encoders learn too


def test_as_much_of_a_batch_is_taken_at_once_as_fits(configs):
    subject, chosen = MemorySpec(*configs, EXAMPLE), settings(batch_size=12)
    none, one = (estimate_memory(subject, chosen, count).total for count in (0, 1))

    def fitting(count: float, asked="auto", batch_size=12, processes=1) -> int:
        memory = int((none + count * (one - none)) / USABLE_FRACTION) + 1
        given = settings(batch_size=batch_size), memory
        return choose_micro_batch(asked, subject._replace(processes=processes), *given)

    assert [fitting(count) for count in (99, 12, 11.9, 6, 5.9, 1, 0.3)] == [12, 12, 6, 6, 4, 1, 1]
    assert fitting(99, batch_size=12, processes=4) == 3
    assert [fitting(count, batch_size=31) for count in (31, 30, 15, 1)] == [31, 16, 11, 1]  # no part divides 31
    assert [fitting(1, asked) for asked in (5, 12, 99)] == [5, 12, 12]  # what is asked for is taken


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "sd-tiny" else pytest.mark.slow) for name in list_recipes()]
)
def test_every_recipe_fits_a_device_of_80_gb(name):
    params = recipes.parameters(name)
    for student in params.students:
        plan = STUDENTS[student]
        teacher = load_teacher_config({"sd": "sd15", "sdxl": "sdxl"}[plan.family])
        side = params.encode.resolution // 8
        example = family_of_unet(teacher).example_shapes(teacher, (side, side), 77)
        small = student_config(plan, teacher)
        hooked = tuple(pair.student for pair in feature_pairs(plan, params.distill.features))
        for section, subject in (
            (params.distill, MemorySpec(small, teacher, example, gpu=True, hooked_modules=hooked)),
            (params.finetune, MemorySpec(small, None, example, gpu=True)),
        ):
            at_once = choose_micro_batch("auto", subject, section, 80 * 10**9)
            need = estimate_memory(subject, section, at_once).total
            print(f"{student}: {at_once} of {section.batch_size} at once, {need / 1e9:.1f} GB")
            assert need <= USABLE_FRACTION * 80e9 and at_once >= 4


def test_advice_begins_with_what_buys_most():
    said = format_savers({"a": 1_000_000_000, "b": 3_500_000_000, "c": 0})
    assert said == "b saves 3.50 GB; a saves 1.00 GB"


def test_this_machine_has_memory():
    assert 1e8 < device_memory(torch.device("cpu")) < 1e14


def test_what_does_not_learn_has_no_gradient_and_no_moments(configs):
    small = count_parameters(configs[0])
    need = estimate_memory(MemorySpec(configs[0], None, EXAMPLE, num_trainable=11), settings(ema_decay=0.9))
    assert need[:4] == (4 * small, 44, 88, 44)


def test_of_weights_that_are_cut_a_process_needs_its_part_and_two_layers(configs):
    small, large = map(count_parameters, configs)
    layer, theirs = map(largest_layer, configs)
    subject = MemorySpec(*configs, EXAMPLE, processes=3, num_shards=3)
    plain = estimate_memory(subject, settings())
    expected = 4 * small // 3 + 8 * layer, 4 * small // 3 + 8 * layer, 8 * small // 3, 0, 4 * (large // 3 + 2 * theirs)
    assert plain[:5] == expected
    again = estimate_memory(subject, settings(precision="bf16", gradient_checkpointing=True))
    assert again.weights == 4 * small // 3 + (4 + 2) * 2 * layer
    assert estimate_memory(subject, settings(precision="bf16")).weights == 4 * small // 3 + 8 * layer + 2 * small


def test_put_together_at_once_are_a_layer_or_all_that_is_in_none():
    """SDXL's largest layer takes 2560 channels and gives 1280; its samplers and what else is in none are more."""
    first, second, time = (2560 * 9 + 1) * 1280, (1280 * 9 + 1) * 1280, (1280 + 1) * 1280
    layer = first + second + time + (2560 + 1) * 1280 + 2 * (2560 + 1280)  # shortcut and norms
    with torch.device("meta"):
        named = UNet2DConditionModel.from_config(load_teacher_config("sdxl")).named_parameters()
    rest = sum(part.numel() for name, part in named if ".resnets." not in name and ".transformer_blocks." not in name)
    assert largest_layer(load_teacher_config("sdxl")) == max(layer, rest) == rest
