from prunella.evaluation.metrics import metric_names
from prunella.reporting import labels
from prunella.sampling.gallery import STAGES


def test_every_metric_that_there_is_is_explained():
    for name in [*metric_names(), "output_error"]:
        assert labels.about(name) and labels.better(name), name


def test_one_word_for_each_thing():
    assert [labels.stage(stage) for stage in STAGES] == [
        "as it was", "pruned", "distilled", "fine-tuned", "int8 weights", "fp8 weights", "int4 weights",
    ]  # fmt: skip
    assert labels.model("sd-tiny/finetuned") == "sd-tiny, fine-tuned" and labels.model("teacher") == "teacher"
    assert labels.title("latent_kid") == "latent KID" and labels.title("my_own") == "my own"
    assert labels.curve("feature/mid_block") == "features of mid_block" and labels.curve("task") == "task error"
    assert labels.begun("latent KID") == "Latent KID" and labels.some("on_rest") == "on the other captions"
    assert labels.training("finetune") == "fine-tuning" and labels.better("my_own") is None
