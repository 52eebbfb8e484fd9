import json

import pytest
import torch
from conftest import LATENT, SIDE, TOKENS
from diffusers import DDPMScheduler

from prunella.miniature import autoencoder, denoiser
from prunella.miniature.making import train_miniature
from prunella.miniature.recipe import read_miniature_recipe
from prunella.models.pipeline import load_pipeline
from prunella.scenes import tokenizer
from prunella.scenes.generator import render_sample
from prunella.training.loop import train


def test_the_shipped_recipe_is_of_sd15s_shape():
    unet = read_miniature_recipe().denoiser.unet
    first = unet["block_out_channels"][0]
    assert [width / first for width in unet["block_out_channels"]] == [1, 2, 4, 4]
    assert unet["layers_per_block"] == 2 and unet["sample_size"] >= 16


def test_the_made_folder_is_whole(teacher):
    pipeline = load_pipeline(teacher)
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    made = json.loads((teacher / "training.json").read_text())
    assert made["hardware"] and made["parts"].keys() == {"autoencoder", "decoder", "naming", "denoiser"}
    assert made["parts"]["denoiser"]["curve"]["columns"] == ["step", "loss", "gradient_norm"]
    assert [row[0] for row in made["parts"]["autoencoder"]["curve"]["rows"]] == [2]


def test_the_scaling_factor_gives_latents_of_unit_variance(teacher, recipe, vocabulary):
    pipeline = load_pipeline(teacher)
    pictures = torch.stack([torch.from_numpy(render_sample(vocabulary, recipe.seed, i)[1]) for i in range(11)])
    with torch.no_grad():
        drawn = pipeline.vae.float().encode(pictures.permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.sample()
    assert (drawn * pipeline.vae.config.scaling_factor).std().item() == pytest.approx(1, abs=0.02)


def test_the_denoiser_leaves_the_text_encoder_as_it_learnt_to_name(recipe, vocabulary):
    words = tokenizer.build_tokenizer(vocabulary, TOKENS)
    pair = denoiser.UNetAndTextEncoder(recipe.denoiser, words)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    tokens = words(["a", "b c", ""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    latents = torch.zeros(2, 4, LATENT, LATENT), torch.ones(2, 4, LATENT, LATENT), 1.0
    batches = denoiser.make_denoiser_batches(*latents, tokens[:-1], tokens[-1], recipe.denoiser, 10)
    loss = denoiser.DenoisingLoss(DDPMScheduler(num_train_timesteps=10, prediction_type="v_prediction"))
    list(train(pair, loss, batches, recipe.denoiser.training))
    changed = {name for name, value in pair.state_dict().items() if not torch.equal(value, before[name])}
    assert "unet.conv_out.weight" in changed
    assert not [name for name in changed if name.startswith("text.")]


def test_continuing_keeps_the_autoencoder(teacher, recipe, vocabulary, tmp_path):
    train_miniature(recipe, vocabulary, tmp_path / "out", tmp_path / "work", "cpu", start_dir=teacher)
    old, new = load_pipeline(teacher), load_pipeline(tmp_path / "out")
    assert torch.equal(old.vae.encoder.conv_in.weight, new.vae.encoder.conv_in.weight)
    assert not torch.equal(old.unet.conv_in.weight, new.unet.conv_in.weight)


def test_every_caption_is_read_and_scene_words_are_one_token(vocabulary):
    words = tokenizer.build_tokenizer(vocabulary, 77)
    for text in ("ein Bär, 熊 🐻", "a\tb"):
        ids = words(text).input_ids
        assert words.unk_token_id not in ids[1:-1]
        assert "".join(words.decode(ids, skip_special_tokens=True).split()) == "".join(text.lower().split())
    ids = words("a small red heart on a grey background").input_ids
    assert len(ids) == 8 + 2


def test_crops_first_and_whole_pictures_last(recipe):
    pictures, part = torch.zeros(5, 3, SIDE, SIDE, dtype=torch.uint8), recipe.autoencoder
    batches = autoencoder.make_autoencoder_batches(pictures, part, part.training, full_images_from=3)
    assert [batches(step)["pixels"].shape[-1] for step in range(5)] == [16, 16, 16, SIDE, SIDE]


def test_polishing_moves_the_decoder_and_no_latent(recipe):
    pictures, part = torch.randint(0, 255, (5, 3, SIDE, SIDE), dtype=torch.uint8), recipe.autoencoder
    vae = autoencoder.build_autoencoder(part)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    batches = autoencoder.make_autoencoder_batches(pictures, part, part.polish, full_images_from=0)
    with autoencoder.freeze_encoder(vae):
        list(train(vae, autoencoder.ReconstructionLoss(part), batches, part.polish))
    moved = {name.split(".")[0] for name, value in vae.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"decoder", "post_quant_conv"}
    assert all(parameter.requires_grad for parameter in vae.parameters())


def test_captions_are_dropped_and_timesteps_lie_in_range(recipe):
    mean = std = torch.zeros(7, 4, LATENT, LATENT)
    tokens, empty = torch.ones(7, 19, dtype=torch.long), torch.zeros(19, dtype=torch.long)
    part = recipe.denoiser.model_copy(update={"caption_dropout": 0.5, "noisier": 0.6})
    batches = denoiser.make_denoiser_batches(mean, std, 1.0, tokens, empty, part, 10)
    drawn = [batches(step) for step in range(100)]
    times = torch.cat([batch["timesteps"] for batch in drawn])
    assert times.min() == 0 and times.max() == 9
    assert 0.75 < (times >= 5).float().mean() < 0.85  # 0.6 of them, and half of the rest
    dropped = torch.cat([(batch["tokens"] == 0).all(1) for batch in drawn]).float().mean()
    assert 0.38 < dropped < 0.62
