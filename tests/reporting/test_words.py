from prunella.evaluation.gallery.shards import STAGES
from prunella.evaluation.metrics import metric_names
from prunella.reporting import words


def test_every_metric_that_there_is_is_explained():
    for name in [*metric_names(), "output_error"]:
        assert words.about(name) and words.better(name), name


def test_one_word_for_each_thing():
    assert [words.stage(stage) for stage in STAGES] == [
        "as it was", "pruned", "distilled", "fine-tuned", "int8 weights", "fp8 weights", "int4 weights",
    ]  # fmt: skip
    assert words.model("sd-tiny/finetuned") == "sd-tiny, fine-tuned" and words.model("teacher") == "teacher"
    assert words.title("latent_kid") == "latent KID" and words.title("my_own") == "my own"
    assert words.curve("feature/mid_block") == "features of mid_block" and words.curve("task") == "task error"
    assert words.begun("latent KID") == "Latent KID" and words.some("on_rest") == "on the other captions"
    assert words.training("finetune") == "fine-tuning" and words.better("my_own") is None
