import pytest
import torch
from conftest import DISTILLING, LATENT, TOKENS, WIDTH
from diffusers import UNet2DConditionModel

from prunella.models.pipeline import load_unet
from prunella.params import Distill, check
from prunella.pruning.mapping import student_config
from prunella.pruning.plan import STUDENTS
from prunella.tracking.memory import Subject, advice, knobs, needed, parameters, there

EXAMPLE = {"latents": (4, LATENT, LATENT), "states": (TOKENS, WIDTH)}


def settings(**changes) -> Distill:
    return check(Distill, DISTILLING | {"ema_decay": 0.0} | changes, "distill")


@pytest.fixture
def configs(teacher) -> tuple[dict, dict]:
    config = {name: value for name, value in load_unet(teacher).config.items() if not name.startswith("_")}
    return student_config(STUDENTS["sd-tiny"], config), config


def test_what_follows_from_the_parameters(configs):
    small, large = map(parameters, configs)
    plain = needed(Subject(*configs, EXAMPLE, beside=7), settings())
    assert plain[:6] == (4 * small, 4 * small, 8 * small, 0, 4 * large, 7)
    half = needed(Subject(*configs, EXAMPLE), settings(precision="bf16", optimizer="adamw-8bit", ema_decay=0.9))
    assert half[:5] == (6 * small, 4 * small, 2 * small, 4 * small, 2 * large)
    assert needed(Subject(configs[0], None, EXAMPLE), settings()).teacher == 0
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
    assert needed(Subject(*configs, EXAMPLE), settings(batch_size=3)).activations == pytest.approx(real, rel=0.01)


def test_features_are_the_teachers_and_their_differences(configs):
    hooked = "down_blocks.0", "up_blocks.2"
    # The toy's widths are 32 and more; the first down stage ends at 4×4 latent pixels, the last up stage at 8×8.
    elements = (
        configs[0]["block_out_channels"][0] * (LATENT // 2) ** 2 + configs[0]["block_out_channels"][0] * LATENT**2
    )
    assert needed(Subject(*configs, EXAMPLE, hooked=hooked), settings(batch_size=3)).features == 3 * 8 * elements
    half = settings(batch_size=3, precision="bf16")
    assert needed(Subject(*configs, EXAMPLE, hooked=hooked), half).features == 3 * 6 * elements


def test_a_gpu_keeps_norms_in_fp32(configs):
    half = settings(precision="bf16")
    cpu, gpu = (needed(Subject(*configs, EXAMPLE, gpu=gpu), half).activations for gpu in (False, True))
    assert 1.1 * cpu < gpu < 2 * cpu
    assert needed(Subject(*configs, EXAMPLE, gpu=True), settings()) == needed(Subject(*configs, EXAMPLE), settings())


def test_checkpointing_keeps_less_and_processes_share(configs):
    subject = Subject(*configs, EXAMPLE)
    plain = needed(subject, settings(batch_size=6)).activations
    assert 0 < needed(subject, settings(batch_size=6, gradient_checkpointing=True)).activations < 0.6 * plain
    assert needed(subject._replace(processes=3), settings(batch_size=6)).activations == plain // 3


def test_every_knob_says_what_it_buys(configs):
    small = parameters(configs[0])
    savings = knobs(Subject(*configs, EXAMPLE), settings(batch_size=6, ema_decay=0.9))
    assert list(savings) == [
        "gradient_checkpointing: true",
        "batch_size: 3, accumulation: 2",
        "optimizer: adamw-8bit",
        "ema_decay: 0",
        "precision: bf16",
    ]
    assert savings["optimizer: adamw-8bit"] == 6 * small and savings["ema_decay: 0"] == 4 * small
    used = settings(batch_size=1, gradient_checkpointing=True, optimizer="adamw-8bit", precision="bf16")
    assert knobs(Subject(*configs, EXAMPLE), used) == {}


def test_no_knob_asks_for_what_processes_cannot_share(configs):
    two = Subject(*configs, EXAMPLE, processes=2)
    assert "batch_size: 2, accumulation: 2" in knobs(two, settings(batch_size=4))
    assert not any("batch_size" in said for said in knobs(two, settings(batch_size=6)))


def test_advice_begins_with_what_buys_most():
    said = advice({"a": 1_000_000_000, "b": 3_500_000_000, "c": 0})
    assert said == "b saves 3.50 GB; a saves 1.00 GB"


def test_this_machine_has_memory():
    assert 1e8 < there(torch.device("cpu")) < 1e14
