from prunella.evaluation.metrics import list_metrics
from prunella.reporting import labels
from prunella.sampling.gallery import ALL_STAGES


def test_every_metric_that_there_is_is_explained():
    for name in [*list_metrics(), "output_error"]:
        assert labels.describe_metric(name) and labels.get_better_direction(name), name


def test_one_word_for_each_thing():
    assert [labels.label_stage(stage) for stage in ALL_STAGES] == [
        "as it was", "pruned", "distilled", "fine-tuned", "int8 weights", "fp8 weights", "int4 weights",
    ]  # fmt: skip
    assert (
        labels.label_model("sd-tiny/finetuned") == "sd-tiny, fine-tuned" and labels.label_model("teacher") == "teacher"
    )
    assert labels.label_metric("latent_kid") == "latent KID" and labels.label_metric("my_own") == "my own"
    assert (
        labels.label_curve("feature/mid_block") == "features of mid_block"
        and labels.label_curve("task") == "task error"
    )
    assert (
        labels.capitalize_first("latent KID") == "Latent KID"
        and labels.label_subset("on_rest") == "on the other captions"
    )
    assert labels.label_training("finetune") == "fine-tuning" and labels.get_better_direction("my_own") is None
