"""`params.yaml`, checked: a model for each section, each key described at its field.

Every stage reads the whole file first, so that a mistake in `benchmark` is found before hours of `distill`. The
comments of `params.yaml` and docs/parameters.md are written from the descriptions (`make parameters`).
"""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from prunella.params.benchmark import Benchmark
from prunella.params.data import Encode, Filter
from prunella.params.distill import Distill
from prunella.params.export import Export, Promote
from prunella.params.fields import ConfigSection, EntryName, ModelName, Seed
from prunella.params.finetune import FINETUNE_DATA_DIR, MAIN_LATENTS_DIR, Finetune
from prunella.params.generate import Generate
from prunella.params.plan import PlanSearch, Prune
from prunella.params.runtime import Runtime
from prunella.params.teacher import ModelSource
from prunella.params.validation import did_you_mean
from prunella.params.watch import Monitoring


class Params(ConfigSection):
    seed: Seed = Field(description="Seed of the filter's sample and of the held-out split.")
    students: Annotated[list[ModelName], Field(min_length=1)] = Field(
        description="Students to make: names of plans in plans/, of shipped plans, or of entries of plan.students."
    )
    teacher: ModelSource = Field(description="The model to compress.")
    teachers: dict[EntryName, ModelSource] = Field(
        description="Further teachers for distill.phases, as {NAME: {...}} with the keys of teacher: docs/phases.md."
    )
    generate: dict[EntryName, Generate] = Field(
        description="Image sets that a model generates from prompts, as {NAME: {...}}: docs/data.md."
    )
    filter: Filter = Field(
        description="Which image-caption pairs are used: docs/data.md. A criterion that is null or [] is off."
    )
    encode: Encode = Field(description="Latents and text embeddings of the pairs.")
    plan: PlanSearch = Field(description="Search for students under a budget: docs/plans.md.")
    prune: Prune = Field(description="The student before training.")
    distill: Distill = Field(description="The student learns from the teacher: docs/distillation.md.")
    finetune: Finetune = Field(description="The student learns from narrow data: docs/finetuning.md.")
    benchmark: Benchmark = Field(description="Quality and cost of each model: docs/evaluation.md.")
    watch: Monitoring = Field(
        description="Monitoring of distill and finetune. It changes no result, so no stage depends on it."
    )
    export: Export = Field(description="Stage export, like `prunella export`: docs/export.md.")
    promote: Promote = Field(description="`prunella promote`. No stage depends on it.")
    runtime: Runtime = Field(description="Hardware. It changes no result, so only stage cost depends on it.")

    @model_validator(mode="after")
    def _check_finetune_data(self) -> Self:
        """A set that nobody learns from, and a folder that no set makes, are slips."""
        tuning, students = self.finetune, set(self.students)
        for name, base in tuning.base.items():
            if base.data not in tuning.data:
                entries = sorted(tuning.data) or ["none"]
                raise ValueError(
                    f"finetune.base.{name}.data: {did_you_mean('entry of finetune.data', base.data, entries)}"
                )
            if tuning.replay_weight:
                raise ValueError(
                    f"finetune.replay_weight: {tuning.replay_weight}, but the main data are not encoded for "
                    f"finetune.base.{name}; 0 does without them"
                )
            if name in students:
                raise ValueError(f"finetune.base.{name}: a student of this graph has that name; give it another")
            if name == "teacher":
                raise ValueError("finetune.base.teacher: the teacher's pictures have that name; give it another")
        entry_by_latents = {f"{FINETUNE_DATA_DIR}/{name}/latents": name for name in tuning.data}
        latents_dirs = ", ".join(entry_by_latents) or "finetune.data is empty"
        if tuning.latents not in (
            MAIN_LATENTS_DIR,
            *entry_by_latents,
        ):  # it stands in a command of dvc.yaml, so nothing else may
            raise ValueError(
                f"finetune.latents: {tuning.latents} is made by no entry of finetune.data ({latents_dirs})"
            )
        if entry_by_latents and tuning.latents not in entry_by_latents and not tuning.base:
            raise ValueError(
                f"finetune.latents: {tuning.latents}, so finetune.data is for nothing; it makes {latents_dirs}"
            )
        return self

    @model_validator(mode="after")
    def _check_export_students(self) -> Self:
        exportable = [*self.students, *self.finetune.base]
        if missing := [name for name in self.export.students if name not in exportable]:
            raise ValueError(
                f"export.students: {did_you_mean('student of this graph', missing[0], sorted(exportable))}"
            )
        return self

    @model_validator(mode="after")
    def _check_phase_teachers(self) -> Self:
        for number, phase in enumerate(self.distill.phases):
            if phase.teacher is not None and phase.teacher not in self.teachers:
                entries = sorted(self.teachers) or ["none"]
                raise ValueError(
                    f"distill.phases.{number}.teacher: {did_you_mean('entry of teachers', phase.teacher, entries)}"
                )
        return self

    @model_validator(mode="after")
    def _check_caption_words(self) -> Self:
        """One caption for all of a set's pictures, and none of the words in it: seen before anything is encoded."""
        words = {word.lower() for word in self.finetune.caption_keywords}
        for name, dataset in self.finetune.data.items():
            caption = dataset.filter.caption
            if words and caption is not None and not words & set(caption.lower().split()):
                location = f"the caption of finetune.data.{name} ({caption!r})"
                raise ValueError(
                    f"finetune.caption_keywords: none of {self.finetune.caption_keywords} is in {location}; [] takes "
                    "all pairs"
                )
        return self

    @field_validator("students")
    @classmethod
    def _check_unique_students(cls, students: list[str]) -> list[str]:
        if len(set(students)) < len(students):
            raise ValueError(f"{students} names a student twice")
        return students

    @model_validator(mode="after")
    def _check_finetune_students(self) -> Self:
        if unknown_students := sorted(set(self.finetune.students or ()) - set(self.students)):
            raise ValueError(
                f"finetune.students: {unknown_students[0]!r} is not among students: {', '.join(self.students)}"
            )
        return self


def students_with_fixed_plan(params: Params) -> list[str]:
    """The students whose plans are there already; the others choose themselves."""
    return [name for name in params.students if name not in params.plan.students]


def students_not_finetuned(params: Params) -> list[str]:
    """The students that are not fine-tuned but passed on as they are."""
    selected = params.finetune.students
    return [] if selected is None else [name for name in params.students if name not in selected]
