"""A whole training step, however it is computed, against one written out plainly."""

from contextlib import nullcontext

import pytest
import torch
from conftest import DISTILLING

from prunella.compute.compile import compile_regions
from prunella.compute.device import Placement, apply_placement
from prunella.latents.shards import LatentDataset
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Distill, validate_config
from prunella.pruning.mapping import feature_pairs
from prunella.pruning.plan import STUDENTS, Plan
from prunella.pruning.prune import prune
from prunella.training import loop, step_metrics
from prunella.training.data import make_training_batches
from prunella.training.feature_capture import capture_outputs
from prunella.training.losses import DistillationLoss

MODES = ("block-bk", "block-segmind", "sub-block", "self-attention")
SETTINGS = validate_config(Distill, DISTILLING | {"feature_weight": 0.25, "snr_gamma": 2.0}, "distill")


def plain(student, teacher, pairs, scheduler, batch) -> tuple[dict, dict]:
    """Terms and gradients of a step, example by example, with nothing of Prunella's."""
    signal = scheduler.alphas_cumprod
    sums, total, n = {}, 0.0, len(batch["latents"])
    for i in range(n):
        one = {name: value[i : i + 1] for name, value in batch.items()}
        a = signal[one["timesteps"]].reshape(1, 1, 1, 1)
        noisy = a.sqrt() * one["latents"] + (1 - a).sqrt() * one["noise"]
        v = scheduler.config.prediction_type == "v_prediction"
        wanted = a.sqrt() * one["noise"] - (1 - a).sqrt() * one["latents"] if v else one["noise"]
        snr = (a / (1 - a)).item()
        weight = min(snr, 2.0) / (snr + 1 if v else snr)
        outputs, caught = {}, {}
        for who, unet in (("student", student), ("teacher", teacher)):
            hooks = []
            for pair in pairs:
                name = getattr(pair, who)

                def note(module, inputs, output, key=(who, pair.name), caught=caught):
                    caught[key] = output[0] if isinstance(output, tuple) else output

                hooks.append(unet.get_submodule(name).register_forward_hook(note))
            added = {"text_embeds": one["pooled"], "time_ids": one["sizes"]} if "pooled" in one else None
            outputs[who] = unet(noisy, one["timesteps"], one["states"], added_cond_kwargs=added).sample
            [hook.remove() for hook in hooks]
        task = ((outputs["student"] - wanted) ** 2).mean()
        output = ((outputs["student"] - outputs["teacher"].detach()) ** 2).mean()
        features = {
            f"feature/{pair.name}": ((caught["student", pair.name] - caught["teacher", pair.name].detach()) ** 2).mean()
            for pair in pairs
        }
        total = total + (weight * task + 0.5 * weight * output + 0.25 * sum(features.values())) / n
        for name, value in {"task": task, "output": output, **features}.items():
            sums[name] = sums.get(name, 0.0) + value.item() / n
    total.backward()
    gradients = {name: part.grad.clone() for name, part in student.named_parameters()}
    student.zero_grad()
    teacher.zero_grad()
    return {"loss": total.item(), **sums}, gradients


@pytest.fixture
def step(request, latents, xl_latents, teacher, xl_teacher):
    """A function from student and mode to all that a step needs."""

    def made(name: str, mode: str):
        plan = STUDENTS[name]
        folder, data = (teacher, latents) if plan.family == "sd" else (xl_teacher, xl_latents)
        unet, scheduler = load_unet(folder), load_scheduler(folder)
        batch = make_training_batches(LatentDataset(data, "train"), 3, SETTINGS, scheduler.config.num_train_timesteps)(
            1
        )
        pairs = feature_pairs(plan, mode)
        # A pruned student's lower blocks are its teacher's; moved a little, every term has something to say.
        student = prune(unet, plan)
        torch.manual_seed(1)
        with torch.no_grad():
            [part.add_(0.01 * torch.randn_like(part)) for part in student.parameters()]
        return student.train(), unet, pairs, scheduler, batch

    return made


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler looks at it
@pytest.mark.parametrize(
    "way", ["eager", "checkpointed", pytest.param("compiled", marks=pytest.mark.slow), "channels last"]
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["sd-tiny", "koala-700m"])
def test_a_step_is_the_plain_one(step, name, mode, way):
    student, teacher, pairs, scheduler, batch = step(name, mode)
    expected, gradients = plain(student, teacher, pairs, scheduler, batch)
    loss = DistillationLoss(teacher, pairs, scheduler, SETTINGS)
    if way == "checkpointed":
        student.enable_gradient_checkpointing()
    if way == "channels last":
        student.to(memory_format=torch.channels_last)
        teacher.to(memory_format=torch.channels_last)
    compiling = way == "compiled"
    ours = compile_regions(student, [pair.student for pair in pairs], "eager") if compiling else nullcontext()
    theirs = compile_regions(teacher, [pair.teacher for pair in pairs], "eager") if compiling else nullcontext()
    with ours, theirs:
        terms = loss(student, batch)
        terms["loss"].backward()
    assert {key: value.item() for key, value in terms.items()} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    scale = max(part.abs().max() for part in gradients.values())
    for key, part in student.named_parameters():
        assert (part.grad - gradients[key]).abs().max() <= 1e-5 * scale, key
        assert part.grad.abs().sum() > 0, key
    assert all(part.grad is None or part.grad.abs().sum() == 0 for part in teacher.parameters())


class Descent(torch.optim.Optimizer):
    """Plain gradient descent."""

    def __init__(self, parameters, settings):
        super().__init__(parameters, {"lr": settings.learning_rate})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for part in group["params"]:
                part.add_(part.grad, alpha=-group["lr"])


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("name", ["sd-tiny", pytest.param("koala-700m", marks=pytest.mark.slow)])
def test_a_step_asks_the_device_for_no_number(step, latents, xl_latents, monkeypatch, name, micro_batch):
    # Tensors on "meta" have no numbers, so that whatever asks for one fails; a GPU would stop there.
    student, teacher, pairs, scheduler, _ = step(name, "sub-block")
    settings = SETTINGS.model_copy(update={"gradient_accumulation_steps": 2, "steps": 3, "ema_decay": 0.9})
    student, teacher = student.to("meta"), teacher.to("meta")
    ema = loop.make_ema(student, settings)
    data = LatentDataset(latents if STUDENTS[name].family == "sd" else xl_latents, "train")
    batches = make_training_batches(data, 3, settings, scheduler.config.num_train_timesteps)
    read = []

    class Reading:
        def __init__(self, numbers):
            read.append(numbers)

        def values(self):
            return [0.0] * len(read[-1])

    monkeypatch.setattr(step_metrics, "AsyncTensor", Reading)
    monkeypatch.setattr(loop, "defers_reads", lambda device, optimizer: True)
    monkeypatch.setattr(loop, "autocast", lambda *_, **__: nullcontext())  # knows no such device
    monkeypatch.setattr(loop, "make_adamw", Descent)  # torch's fused AdamW knows no such device either
    loss = DistillationLoss(teacher, pairs, scheduler, settings)
    steps = list(loop.train(student, loss, batches, settings, ema=ema, micro_batch=micro_batch))
    assert len(steps) == len(read) == 3 and all(numbers.device.type == "meta" for numbers in read)
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        read[0].tolist()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler, which has many
def test_inductor_trains_in_bf16_as_eager_does(step, latents):
    settings = SETTINGS.model_copy(update={"precision": "bf16", "steps": 2, "ema_decay": 0.0})
    told = {}
    for compile in (False, True):
        student, teacher, pairs, scheduler, _ = step("sd-tiny", "block-segmind")
        teacher.bfloat16()
        loss = DistillationLoss(teacher, pairs, scheduler, settings, compile=compile)
        batches = make_training_batches(
            LatentDataset(latents, "train"), 3, settings, scheduler.config.num_train_timesteps
        )
        place = Placement(compile=compile)
        with (
            apply_placement(teacher, [pair.teacher for pair in pairs], place),
            apply_placement(student, [pair.student for pair in pairs], place),
        ):
            told[compile] = [row for _, known in loop.train(student, loss, batches, settings) for row in known]
    for (_, ours), (_, eager) in zip(told[True], told[False], strict=True):
        assert ours == pytest.approx(eager, rel=0.02)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mid", ["keep", "resnet", "drop"])
@pytest.mark.parametrize("removed", [0, 1])
def test_compared_parts_give_outputs_of_one_shape(step, removed, mid, mode):
    gone = [None] * removed
    content = {"down": [[0], *[[0]] * (3 - removed), *gone], "mid": mid, "up": [*gone, *[[0, 2]] * (4 - removed)]}
    plan = validate_config(Plan, STUDENTS["sd-tiny"].model_dump() | content, "own.yaml")
    _, teacher, _, _, batch = step("sd-tiny", mode)
    student, pairs = prune(teacher, plan), feature_pairs(plan, mode)
    seen = []
    for unet, names in ((student, [pair.student for pair in pairs]), (teacher, [pair.teacher for pair in pairs])):
        with capture_outputs(unet, names) as outputs:
            unet(batch["latents"], batch["timesteps"], batch["states"])
        seen.append([outputs[name].shape for name in names])
    assert pairs
    assert seen[0] == seen[1]
