import numpy as np
import torch
from conftest import TOKENS

from prunella.miniature import denoiser, naming
from prunella.scenes import tokenizer
from prunella.scenes.generator import Scene, SceneObject
from prunella.training.loop import train

RED = SceneObject("small", "red", "heart")
BLUE = SceneObject("large", "blue", "ring")


def named(scene, vocabulary):
    known = naming.list_claim_fields(vocabulary)
    return {name: words[i] for (name, words), i in zip(known.items(), naming.label_scene(scene, known), strict=True)}


def test_answers_say_what_the_scene_holds(vocabulary):
    assert named(Scene((RED, BLUE), "left of", "grey"), vocabulary) == {
        "background": "grey",
        "relation": "left of",
        **{"size 1": "small", "colour 1": "red", "shape 1": "heart"},
        **{"size 2": "large", "colour 2": "blue", "shape 2": "ring"},
    }


def test_one_thing_has_no_relation_and_no_second(vocabulary):
    answers = named(Scene((BLUE,), None, "white"), vocabulary)
    assert answers["relation"] == answers["size 2"] == answers["colour 2"] == answers["shape 2"] == ""
    assert answers["shape 1"] == "ring"


def test_batches_follow_from_the_step_and_hold_no_unseen_combination(vocabulary):
    words = tokenizer.build_tokenizer(vocabulary, TOKENS)
    batch = naming.make_naming_batches(vocabulary, words, 50, seed=3)
    one, again, other = batch(0), batch(0), batch(1)
    assert torch.equal(one["tokens"], again["tokens"]) and torch.equal(one["answers"], again["answers"])
    assert not torch.equal(one["answers"], other["answers"])
    known = naming.list_claim_fields(vocabulary)
    unseen = set(vocabulary.combinations[True])
    for row in torch.cat([one["answers"], other["answers"]]).tolist():
        said = {name: words[i] for (name, words), i in zip(known.items(), row, strict=True)}
        assert (said["size 1"], said["colour 1"], said["shape 1"]) not in unseen


def test_a_text_encoder_learns_to_name(recipe, vocabulary):
    words = tokenizer.build_tokenizer(vocabulary, 24)
    torch.manual_seed(0)
    wider = recipe.denoiser.model_copy(update={"text": recipe.denoiser.text | {"max_position_embeddings": 24}})
    text = denoiser.UNetAndTextEncoder(wider, words).text.requires_grad_(True)
    namer = naming.ClaimClassifier(text, naming.list_claim_fields(vocabulary))
    settings = recipe.denoiser.naming.model_copy(update={"steps": 120, "learning_rate": 5e-3})
    batches = naming.make_naming_batches(vocabulary, words, 32, seed=0)
    steps = train(namer, naming.ClaimClassificationLoss(words.eos_token_id), batches, settings)
    rights = [terms["right"] for _, known in steps for _, terms in known]
    assert np.mean(rights[:5]) < 0.4 and np.mean(rights[-5:]) > 0.8
