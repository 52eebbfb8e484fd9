"""Soft-TIFA by a small random model that sees pictures, against a direct computation in float64."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from prunella.errors import UserError
from prunella.evaluation.metrics import find_metric, find_unavailable_metrics
from prunella.evaluation.metrics.base import Unavailable, make_report_entries
from prunella.evaluation.metrics.soft_tifa import read_questions
from prunella.evaluation.vqa import list_spellings

SEEN = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8) for i in range(3)]
ASKED = [
    [["How many rings are in the image?", "two"], ["Are the rings red?", "Yes"], ["Are there any rings?", "Yes"]],
    [["Are there any stars?", "Yes"]],
]
SKILLS = [["count", "attribute", "object"], ["object"]]


@pytest.fixture
def subject(make_subject, networks, tmp_path):
    """Three prompts, of which the first and the last have questions."""
    subject = make_subject(3, backbones=networks)
    first, second, third = (prompt.text for prompt in subject.prompts)
    rows = [{"prompt": first, "vqa_list": ASKED[0], "skills": SKILLS[0]}, {"prompt": second}]
    rows += [{"prompt": third, "vqa_list": ASKED[1], "skills": SKILLS[1]}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len({first, second, third}) == 3
    return subject


@torch.no_grad()
def likely(folder, picture, question, written) -> float:
    """The share of the first tokens of `written` in the last position's, by a plain call of the model."""
    model, processor = LlavaForConditionalGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    inputs = processor(
        images=Image.fromarray(picture), text=f"<image> {question} Answer in one word. ", return_tensors="pt"
    )
    logits = model(**inputs).logits[0, -1].double().numpy()
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return sum(shares[token] for token in {processor.tokenizer.encode(text)[1] for text in written})


def test_a_picture_s_value_is_the_geometric_mean_of_its_answers(subject, networks):
    metric = find_metric("soft_tifa").build(subject)
    metric.update(SEEN[:2], [prompt.text for prompt in subject.prompts[:2]])
    metric.update(SEEN[2:], [subject.prompts[2].text])
    two, yes = ("two", "Two", " two", " Two", "2", " 2"), ("Yes", "yes", " yes", " Yes")
    first = [likely(networks.vqa, SEEN[0], ASKED[0][0][0], two)]
    first += [likely(networks.vqa, SEEN[0], question, yes) for question, _ in ASKED[0][1:]]
    last = likely(networks.vqa, SEEN[2], ASKED[1][0][0], yes)
    found = metric.values()[""]
    assert found == [pytest.approx(np.prod(first) ** (1 / 3), rel=1e-4), None, pytest.approx(last, rel=1e-4)]
    assert len({*first, last}) >= 3  # the toy's answers differ, so the test can fail
    parts = make_report_entries("soft_tifa", metric)["soft_tifa_by"]
    assert metric.compute().value == pytest.approx((found[0] + last) / 2) and metric.compute().n == 2
    assert parts["atoms"]["value"] == pytest.approx((np.mean(first) + last) / 2, rel=1e-4)
    assert parts["object"]["value"] == pytest.approx((first[2] + last) / 2, rel=1e-4)
    assert (parts["count"]["n"], parts["object"]["n"]) == (1, 2) and list(parts)[:2] == ["atoms", "count"]


def test_how_an_answer_may_be_written():
    assert list_spellings("Yes") == ["Yes", " Yes", "yes", " yes"]
    assert list_spellings("four") == ["four", " four", "Four", " Four", "4", " 4"]


def test_prompts_without_questions_are_said_with_the_line_that_gives_some(make_subject, networks, tmp_path):
    subject = make_subject(3, backbones=networks)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a ring"}\n')
    with pytest.raises(Unavailable, match=r"no prompt has questions .*git clone https://github.com/facebookresearch"):
        find_metric("soft_tifa").build(subject)


def test_questions_that_lack_are_said_before_anything_is_drawn(params, networks, tmp_path):
    asked = {"metrics": ["soft_tifa"], "backbones": networks, "prompt_file": str(tmp_path / "prompts.jsonl")}
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a ring"}\n')
    known = params.benchmark.model_copy(update=asked)
    assert find_unavailable_metrics(known)["soft_tifa"].startswith("no prompt has questions in")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a ring", "vqa_list": ASKED[1]}) + "\n")
    assert find_unavailable_metrics(known) == {}
    nothing = networks.model_copy(update={"vqa": None})
    assert find_unavailable_metrics(known.model_copy(update={"backbones": nothing}))["soft_tifa"].startswith(
        "needs benchmark.backbones.vqa"
    )


def test_what_is_no_question_is_refused_with_its_line(tmp_path):
    file = tmp_path / "some.jsonl"
    for wrong in (["Is it red?"], [["Is it red?", 3]], 5):
        file.write_text('{"prompt": "a"}\n' + json.dumps({"prompt": "b", "vqa_list": wrong}) + "\n")
        with pytest.raises(UserError, match=r"some\.jsonl: line 2: .vqa_list. is"):
            read_questions(file)
    file.write_text(json.dumps({"prompt": "b", "vqa_list": [["a", "b"]], "skills": []}) + "\n")
    assert read_questions(file)["b"][0].skill == ""
    assert read_questions(tmp_path / "cards.txt") == {}


def test_a_model_that_answers_nothing_is_said_in_one_line(subject, networks):
    for wrong, said in ((networks.clip, "cannot be loaded"), (None, r"needs benchmark\.backbones\.vqa; `hf download")):
        changed = networks.model_copy(update={"vqa": wrong})
        object.__setattr__(subject, "backbones", changed)
        with pytest.raises(Unavailable, match=said) as caught:
            find_metric("soft_tifa").build(subject)
        assert "\n" not in str(caught.value)
        subject.shared.clear()
