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
from prunella.evaluation.metrics.base import Images, MetricContext, Unavailable
from prunella.evaluation.vqa import VqaModel, load_vqa_model
from prunella.params import Benchmark
from prunella.sampling.benchmark_prompts import iter_prompt_rows
from prunella.stats import Estimate, estimate_mean

NEEDS = ("vqa",)  # of benchmark.backbones
INSTALL_HINT = (
    "`git clone https://github.com/facebookresearch/GenEval2 data/geneval2`, benchmark.prompts_from: file and "
    "benchmark.prompt_file: data/geneval2/geneval2_data.jsonl give them"
)


class Question(NamedTuple):
    text: str
    answer: str
    skill: str  # that it asks for, such as "count"


class SoftTifa:
    """Keeps the probability of the right answer to every question; prompts without questions are passed over."""

    def __init__(self, model: VqaModel, questions: dict[str, list[Question]]):
        self.model, self.questions = model, questions
        self.answer_scores: list[list[tuple[str, float]]] = []  # of a picture: (skill, probability) a question

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        for image, prompt in zip(images, prompts, strict=True):
            questions = self.questions.get(prompt, [])
            self.answer_scores.append(
                [
                    (question.skill, self.model.answer_probability(image, question.text, question.answer))
                    for question in questions
                ]
            )

    def compute(self) -> Estimate:
        return estimate_mean([value for value in self.values()[""] if value is not None])

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        return {
            "": [
                float(gmean([probability for _, probability in answers])) if answers else None
                for answers in self.answer_scores
            ]
        }

    def breakdown(self) -> dict[str, Estimate]:
        """The arithmetic mean of a picture's answers ("atoms"), and of those that ask for one skill, over pictures."""
        skills = dict.fromkeys(skill for answers in self.answer_scores for skill, _ in answers if skill)
        scores_by_part = {"atoms": [[probability for _, probability in answers] for answers in self.answer_scores]}
        scores_by_part |= {
            skill: [
                [probability for answer_skill, probability in answers if answer_skill == skill]
                for answers in self.answer_scores
            ]
            for skill in skills
        }
        return {
            part: estimate_mean([float(np.mean(scores)) for scores in scores_per_image if scores])
            for part, scores_per_image in scores_by_part.items()
        }

    def real_data_floor(self) -> None:
        return None


def find_missing_inputs(params: Benchmark) -> str | None:
    """The questions, known before anything is drawn: that no prompt has questions."""
    file = Path(params.prompt_file)
    return None if read_questions(file) else _format_no_questions(file)


def _format_no_questions(file: Path) -> str:
    return f"no prompt has questions in {file}; {INSTALL_HINT}"


def build(context: MetricContext) -> SoftTifa:
    questions = context.get_shared("questions", lambda: read_questions(context.prompt_file))
    if not any(prompt.text in questions for prompt in context.prompts):
        raise Unavailable(_format_no_questions(context.prompt_file))
    return SoftTifa(load_vqa_model(context), questions)


def read_questions(file: Path) -> dict[str, list[Question]]:
    """The questions on each prompt of a file; {} where it has none. Raises UserError where a line's are none."""
    questions_by_prompt: dict[str, list[Question]] = {}
    for line, row in iter_prompt_rows(file) if file.suffix == ".jsonl" else ():
        if not (pairs := row.get("vqa_list")):
            continue
        try:
            skills = row.get("skills") or [""] * len(pairs)
            questions = [Question(text, answer, skill) for (text, answer), skill in zip(pairs, skills, strict=True)]
        except (TypeError, ValueError):
            questions = []
        if not questions or not all(isinstance(value, str) for question in questions for value in question):
            raise UserError(f'{file}: line {line}: "vqa_list" is [[question, answer], …], "skills" a name for each')
        questions_by_prompt[row.get("prompt", "")] = questions
    return questions_by_prompt
