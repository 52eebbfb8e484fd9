"""Soft-TIFA: how probable the right answers to questions on a picture are to a model that sees it.

Kamath et al. 2025 (GenEval 2, arXiv 2512.16853): the geometric mean of a picture's, so that one that fails spoils it
("prompt level"). The questions are those of `benchmark.prompt_file`, a line of JSON a prompt: "vqa_list" with pairs of
question and answer, "skills" with a name for each. Values compare only within one model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import gmean

from prunella.errors import UserError
from prunella.evaluation.metrics.base import Images, Subject, Unavailable
from prunella.evaluation.vqa import Answers, answers
from prunella.params import Benchmark
from prunella.sampling.benchmark_prompts import rows
from prunella.stats import Estimate, mean

NEEDS = ("vqa",)  # of benchmark.backbones
GIVEN_BY = (
    "`git clone https://github.com/facebookresearch/GenEval2 data/geneval2`, benchmark.prompts_from: file and "
    "benchmark.prompt_file: data/geneval2/geneval2_data.jsonl give them"
)


class Question(NamedTuple):
    text: str
    answer: str
    skill: str  # that it asks for, such as "count"


class SoftTifa:
    """Keeps the probability of the right answer to every question; prompts without questions are passed over."""

    def __init__(self, model: Answers, questions: dict[str, list[Question]]):
        self.model, self.questions = model, questions
        self.each: list[list[tuple[str, float]]] = []  # of a picture: (skill, probability) a question

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        for image, prompt in zip(images, prompts, strict=True):
            asked = self.questions.get(prompt, [])
            self.each.append([(each.skill, self.model.probability(image, each.text, each.answer)) for each in asked])

    def compute(self) -> Estimate:
        return mean([value for value in self.values()[""] if value is not None])

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        return {"": [float(gmean([share for _, share in found])) if found else None for found in self.each]}

    def parts(self) -> dict[str, Estimate]:
        """The arithmetic mean of a picture's answers ("atoms"), and of those that ask for one skill, over pictures."""
        skills = dict.fromkeys(skill for found in self.each for skill, _ in found if skill)
        by = {"atoms": [[share for _, share in found] for found in self.each]}
        by |= {skill: [[share for of, share in found if of == skill] for found in self.each] for skill in skills}
        return {part: mean([float(np.mean(some)) for some in every if some]) for part, every in by.items()}

    def floor(self) -> None:
        return None


def lacks(params: Benchmark) -> str | None:
    """What is known before anything is drawn: that no prompt has questions."""
    file = Path(params.prompt_file)
    return None if read_questions(file) else _without(file)


def _without(file: Path) -> str:
    return f"no prompt has questions in {file}; {GIVEN_BY}"


def build(subject: Subject) -> SoftTifa:
    questions = subject.common("questions", lambda: read_questions(subject.prompt_file))
    if not any(prompt.text in questions for prompt in subject.prompts):
        raise Unavailable(_without(subject.prompt_file))
    return SoftTifa(answers(subject), questions)


def read_questions(file: Path) -> dict[str, list[Question]]:
    """The questions on each prompt of a file; {} where it has none. Raises UserError where a line's are none."""
    found: dict[str, list[Question]] = {}
    for line, row in rows(file) if file.suffix == ".jsonl" else ():
        if not (pairs := row.get("vqa_list")):
            continue
        try:
            skills = row.get("skills") or [""] * len(pairs)
            asked = [Question(text, answer, skill) for (text, answer), skill in zip(pairs, skills, strict=True)]
        except (TypeError, ValueError):
            asked = []
        if not asked or not all(isinstance(part, str) for question in asked for part in question):
            raise UserError(f'{file}: line {line}: "vqa_list" is [[question, answer], …], "skills" a name for each')
        found[row.get("prompt", "")] = asked
    return found
