"""Go on with the bundled miniature so that it composes two objects. Unfinished: resume.safetensors is how far it is.

Cross-attention of the miniature reads the same text states at every pixel, and nothing in them says which object stands
where. Therefore the states of the padding behind the end token are taught to name one object each: the upper or left
one at
even positions, the lower or right one at odd positions. The UNet then learns with an additional loss that asks its
cross-attention to look at even positions inside the first object and at odd ones inside the second.

    python experiments/miniature/compose.py text    WORK            # 900 steps, 10 minutes on one core
    python experiments/miniature/compose.py latents WORK            # 40,000 scenes, 8 minutes
    python experiments/miniature/compose.py unet    WORK --seconds 4400 --out FOLDER
    python experiments/miniature/compose.py unet    WORK --seconds 4400 --out FOLDER \
        --start experiments/miniature/resume.safetensors

`unet` writes a pipeline folder every 250 steps. resume.safetensors is such a folder's UNet (fp16) and text encoder
after 8,538 steps (4,400 seconds on one core). 40 images each of it: one object 0.90 (0.77 to 0.96), two objects
0.45 (0.31 to 0.60; the bundled weights 0.15), colour 0.90, shape 0.80, relation 0.6. 1,000 more steps with 60 % of the
timesteps uniform in 550 to 999 gave 0.50 (0.35 to 0.65) and left the relation at 0.6: objects are right and stand in
each other's places. The place loss of 96 scenes is 0.10 at timestep 450, 0.21 at 700, 0.53 at 850, 0.77 at 950 and 0.84
at 990, where chance is 0.69: attention finds an object by its looks, which pure noise does not show. After those 1,000
steps it is 0.19 at 700, 0.48 at 850, 0.64 at 950 and 0.69 at 990, so more training above 700 is the next thing to try.
"""

import argparse
import copy
import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunella.latents.encoders import encode_images
from prunella.scenes import generator
from prunella.scenes.generator import make_scene, read_vocabulary

BUNDLED = Path("src/prunella/bundled/miniature")
SCENES = 40_000
TWO_OBJECTS = 0.7
POSITIONS = 77
IS_EVEN = torch.arange(POSITIONS) % 2 == 0
PLACE_WEIGHT, PLACE_WEIGHT_LATE, PLACE_UNTIL = 0.1, 0.02, 2500
GUIDED_BLOCKS = ("down_blocks.0", "down_blocks.1", "up_blocks.2", "up_blocks.3")  # of 16 × 16 and 8 × 8 latent pixels


def load_bundled() -> StableDiffusionPipeline:
    """The bundled pipeline, in fp32."""
    return StableDiffusionPipeline.from_pretrained(BUNDLED, safety_checker=None).to(torch.float32)


def find_padding(tokens: Tensor, end_token_id: int) -> Tensor:
    """True at the positions (NL) behind the first end token; padding is the end token too."""
    return (tokens == end_token_id).cumsum(1) > 1


def order_objects(relation: str) -> tuple[int, int]:
    """Indices of the upper or left object and of the other one."""
    return (0, 1) if relation in ("above", "left of") else (1, 0)


def train_text(work: Path, steps: int = 900, batch_size: int = 64) -> None:
    """Teach padding states to name one object each; write WORK/text.pt."""
    vocabulary = replace(read_vocabulary("data/scenes.yaml"), two_objects=0.75)
    pipeline = load_bundled()
    reference = pipeline.text_encoder.eval().requires_grad_(False)
    encoder = copy.deepcopy(reference).requires_grad_(True).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), 1e-3, weight_decay=0.0)

    def tokenize(captions: list[str]) -> Tensor:
        return pipeline.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids

    for step in range(steps):
        rng = np.random.default_rng([11, step])
        captions: dict[str, list[str]] = {"both": [], "first": [], "second": []}
        for number in range(batch_size):
            scene = make_scene(vocabulary, rng)
            phrasing = vocabulary.phrasings[rng.integers(len(vocabulary.phrasings))]
            scenes = {"both": scene, "first": scene, "second": scene}
            if scene.relation:
                for name, index in zip(("first", "second"), order_objects(scene.relation), strict=True):
                    scenes[name] = replace(scene, objects=(scene.objects[index],) * 2)
            for name, each in scenes.items():
                captions[name].append(each.format_caption(phrasing) if number else "")
        tokens = {name: tokenize(texts) for name, texts in captions.items()}
        with torch.no_grad():
            states = {name: reference(value).last_hidden_state for name, value in tokens.items()}
        named = torch.where(IS_EVEN[None, :, None], states["first"], states["second"])
        is_padding = find_padding(tokens["both"], pipeline.tokenizer.eos_token_id)[..., None]
        target = torch.where(is_padding, named, states["both"])
        loss = F.mse_loss(encoder(tokens["both"]).last_hidden_state, target)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            unchanged = F.mse_loss(states["both"], target)
            print(f"step {step}: {loss.item():.5f}; unchanged encoder {unchanged.item():.5f}", flush=True)
    torch.save(encoder.state_dict(), work / "text.pt")


def render_latents(work: Path) -> None:
    """Latents, tokens and object masks (N2HW; all False with one object) of the scenes, into WORK/latents.pt."""
    vocabulary = replace(read_vocabulary("data/scenes.yaml"), two_objects=TWO_OBJECTS)
    pipeline = load_bundled()
    centers: list[tuple] = []
    choose_centers = generator._choose_centers

    def record_centers(relation: str | None, radii: list[float], image_size: int, rng: np.random.Generator) -> list:
        chosen = choose_centers(relation, radii, image_size, rng)
        centers.append((relation, radii, chosen))
        return chosen

    generator._choose_centers = record_centers
    ys, xs = np.mgrid[0:16, 0:16] * 4.0 + 2.0
    captions, images, means, stds, masks = [], [], [], [], []
    for index in range(SCENES):
        caption, image = generator.render_sample(vocabulary, 0, index)
        relation, radii, places = centers[-1]
        mask = np.zeros((2, 16, 16), bool)
        if relation:
            for row, number in enumerate(order_objects(relation)):
                mask[row] = np.hypot(xs - places[number][0], ys - places[number][1]) <= radii[number]
        captions.append(caption)
        images.append(image)
        masks.append(mask)
        if len(images) == 500:
            mean, std = encode_images(pipeline.vae.eval(), np.stack(images))
            means.append(mean)
            stds.append(std)
            images = []
    tokens = pipeline.tokenizer([*captions, ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    torch.save(
        {
            "mean": torch.cat(means),
            "std": torch.cat(stds),
            "tokens": tokens,
            "masks": torch.from_numpy(np.stack(masks)),
        },
        work / "latents.pt",
    )


def load_part(model: torch.nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Load the weights that begin with the part's name; the text encoder's are with or without `text_model.`."""
    own = {key.removeprefix(f"{name}."): value.float() for key, value in weights.items() if key.startswith(f"{name}.")}
    bare = {key.removeprefix("text_model."): key for key in model.state_dict()}
    model.load_state_dict({bare[key.removeprefix("text_model.")]: value for key, value in own.items()})


class PlaceLoss:
    """Collects, in each guided cross-attention, how much a pixel of an object attends to the padding that names it."""

    def __init__(self) -> None:
        self.masks: dict[int, Tensor] = {}
        self.even = self.odd = torch.empty(0)
        self.losses: list[Tensor] = []

    def set_batch(self, masks: Tensor, padding: Tensor) -> None:
        """Before a forward pass: the batch's object masks (N2HW) and padding positions (NL)."""
        coarse = masks[..., 0::2, 0::2] | masks[..., 1::2, 1::2]
        self.masks = {16: masks.flatten(2), 8: coarse.flatten(2)}
        self.even, self.odd = (padding & IS_EVEN).float(), (padding & ~IS_EVEN).float()
        self.losses = []

    def add(self, probabilities: Tensor) -> None:
        """Add the loss of attention probabilities (N, heads, pixels, positions)."""
        mask = self.masks[math.isqrt(probabilities.shape[2])].float()[:, :, None]
        even = (probabilities * self.even[:, None, None]).sum(-1)
        odd = (probabilities * self.odd[:, None, None]).sum(-1)
        share = (even / (even + odd + 1e-9)).clamp(1e-4, 1 - 1e-4)
        loss = -(mask[:, 0] * share.log() + mask[:, 1] * (1 - share).log())
        self.losses.append(loss.sum() / (mask.sum() * probabilities.shape[1]).clamp(min=1))


class PlaceAttention:
    """An attention processor of diffusers that hands its probabilities to a `PlaceLoss`."""

    def __init__(self, place_loss: PlaceLoss):
        self.place_loss = place_loss

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        batch, pixels, _ = hidden_states.shape

        def split(values: Tensor) -> Tensor:
            return values.view(batch, values.shape[1], attn.heads, -1).transpose(1, 2)

        queries = split(attn.to_q(hidden_states))
        keys, values = split(attn.to_k(encoder_hidden_states)), split(attn.to_v(encoder_hidden_states))
        probabilities = (queries @ keys.transpose(-1, -2) * attn.scale).softmax(-1)
        self.place_loss.add(probabilities)
        return attn.to_out[1](attn.to_out[0]((probabilities @ values).transpose(1, 2).reshape(batch, pixels, -1)))


def guide_attention(unet: UNet2DConditionModel) -> PlaceLoss:
    """Have the UNet's guided cross-attention report to a place loss, which is returned."""
    place_loss, processors = PlaceLoss(), dict(unet.attn_processors)
    for name in processors:
        if "attn2" in name and name.startswith(GUIDED_BLOCKS):
            processors[name] = PlaceAttention(place_loss)
    unet.set_attn_processor(processors)
    return place_loss


class Batch(NamedTuple):
    """Noised latents and v-targets (N4HW), timesteps (N), tokens (NL), object masks (N2HW), padding (NL)."""

    noisy: Tensor
    target: Tensor
    timesteps: Tensor
    tokens: Tensor
    masks: Tensor
    padding: Tensor


def make_batch(data: dict, is_padding: Tensor, alphas: Tensor, step: int, size: int) -> Batch:
    """The batch of a step: a tenth of the captions dropped, timesteps logit-normal around 450."""
    source = torch.Generator().manual_seed(1_000_003 + step)
    chosen = torch.randint(len(data["mean"]), (size,), generator=source)
    mean = data["mean"][chosen]
    latents = (mean + data["std"][chosen] * torch.randn(mean.shape, generator=source)) * data["scale"]
    logits = torch.randn(size, generator=source) + math.log(0.45 / 0.55)
    timesteps = (1000 * torch.sigmoid(logits)).long().clamp(0, 999)
    noise = torch.randn(latents.shape, generator=source)
    dropped = torch.rand(size, generator=source) < 0.1
    signal = alphas[timesteps].sqrt().view(-1, 1, 1, 1)
    sigma = (1 - alphas[timesteps]).sqrt().view(-1, 1, 1, 1)
    return Batch(
        noisy=signal * latents + sigma * noise,
        target=signal * noise - sigma * latents,
        timesteps=timesteps,
        tokens=torch.where(dropped[:, None], data["tokens"][-1], data["tokens"][:-1][chosen]),
        masks=data["masks"][chosen] & ~dropped[:, None, None, None],
        padding=is_padding[:-1][chosen] & ~dropped[:, None],
    )


def train_unet(
    work: Path, seconds: float, out: Path, start: Path | None, batch_size: int = 16, learning_rate: float = 6e-4
) -> None:
    """Train the UNet for so many seconds at a linearly falling rate; resumes from WORK/unet/, else from `start`."""
    pipeline = load_bundled()
    unet, encoder = pipeline.unet.train(), pipeline.text_encoder.eval().requires_grad_(False)
    if start:
        for name, part in (("unet", unet), ("text_encoder", encoder)):
            load_part(part, load_file(start), name)
    else:
        encoder.load_state_dict(torch.load(work / "text.pt"))
    alphas = DDPMScheduler.from_config(pipeline.scheduler.config).alphas_cumprod
    data = torch.load(work / "latents.pt", mmap=True)
    data |= {"tokens": data["tokens"].long(), "scale": pipeline.vae.config.scaling_factor}
    is_padding = find_padding(data["tokens"], pipeline.tokenizer.eos_token_id)
    place_loss = guide_attention(unet)
    optimizer = torch.optim.AdamW(unet.parameters(), learning_rate, weight_decay=0.01)
    ema, step, spent, rows = EMAModel(unet.parameters(), decay=0.998), 0, 0.0, []
    folder = work / "unet"
    folder.mkdir(parents=True, exist_ok=True)
    if states := sorted(folder.glob("*.pt"), key=lambda path: int(path.stem)):
        state = torch.load(states[-1])
        step, spent, rows = state["step"], state["spent"], state["rows"]
        for part, name in ((unet, "unet"), (optimizer, "optimizer"), (ema, "ema")):
            part.load_state_dict(state[name])
    last, recent = time.time(), []
    while spent < seconds:
        batch = make_batch(data, is_padding, alphas, step, batch_size)
        place_loss.set_batch(batch.masks, batch.padding)
        with torch.no_grad():
            states = encoder(batch.tokens).last_hidden_state
        predicted = unet(batch.noisy, batch.timesteps, states).sample
        error, place = F.mse_loss(predicted, batch.target), torch.stack(place_loss.losses).mean()
        (error + (PLACE_WEIGHT if step < PLACE_UNTIL else PLACE_WEIGHT_LATE) * place).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 100) * max(0.0, 1 - spent / seconds)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.step(unet.parameters())
        step, now = step + 1, time.time()
        spent, last = spent + now - last, now
        recent.append((error.item(), place.item()))
        if step % 50 == 0:
            rows.append([step, round(spent), *(round(float(value), 5) for value in np.mean(recent, 0))])
            print("step, seconds, loss, place:", *rows[-1], flush=True)
            recent = []
        if step % 250 == 0 or spent >= seconds:
            state = {"unet": unet, "optimizer": optimizer, "ema": ema}
            state = {name: part.state_dict() for name, part in state.items()}
            torch.save(state | {"step": step, "spent": spent, "rows": rows}, folder / f"{step}.half")
            (folder / f"{step}.half").rename(folder / f"{step}.pt")
            save_pipeline(unet, ema, encoder, rows, step, spent, out)
            last = time.time()


def save_pipeline(unet, ema: EMAModel, encoder, rows: list, step: int, spent: float, out: Path) -> None:
    """The bundled folder with the averaged UNet (fp16) and the text encoder (fp32), and how they were made."""
    half = out.with_name(f"{out.name}.half")
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(BUNDLED, half)
    ema.store(unet.parameters())
    ema.copy_to(unet.parameters())
    weights = {name: value.half().contiguous() for name, value in unet.state_dict().items()}
    ema.restore(unet.parameters())
    save_file(weights, half / "unet" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    path = half / "text_encoder" / "model.safetensors"
    with safe_open(path, "pt") as file:
        names = list(file.keys())
    values = {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}
    save_file(
        {name: values[name.removeprefix("text_model.")].contiguous() for name in names}, path, metadata={"format": "pt"}
    )
    report = json.loads((BUNDLED / "training.json").read_text())
    report["compose"] = {
        "script": "experiments/miniature/compose.py",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "steps": step,
        "seconds": round(spent),
        "curve": {"columns": ["step", "seconds", "loss", "place"], "rows": rows},
    }
    (half / "training.json").write_text(json.dumps(report, indent=1))
    shutil.rmtree(out, ignore_errors=True)
    half.rename(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["text", "latents", "unet"])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=float, default=4400)
    parser.add_argument("--out", type=Path, help="unet: the pipeline folder to write")
    parser.add_argument(
        "--start", type=Path, help="unet: weights to go on from (default: the bundled UNet and text.pt)"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.part == "text":
        train_text(args.work)
    elif args.part == "latents":
        render_latents(args.work)
    else:
        train_unet(args.work, args.seconds, args.out, args.start)


if __name__ == "__main__":
    main()
