"""Section `distill`."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from prunella.params.fields import ConfigSection, EntryName, Fraction, ModelName, NonNegativeFloat, PositiveInt
from prunella.params.training import DiffusionTraining

FeatureMode = Literal["block-bk", "block-segmind", "sub-block", "self-attention"]  # which features are compared
FeatureNormalization = Literal["none", "teacher"]
WeightSchedule = Annotated[list[tuple[Fraction, NonNegativeFloat]], Field(min_length=1)]
# A number, or [share of the training done, weight] points to go straight between.
LossWeight = Annotated[
    Annotated[NonNegativeFloat, Tag("number")] | Annotated[WeightSchedule, Tag("points")],
    Discriminator(lambda value: "points" if isinstance(value, list) else "number"),
]
# A share of a student's cuts, or a plan's name.
PhasePlan = Annotated[
    Annotated[float, Field(gt=0, le=1), Tag("number")] | Annotated[ModelName, Tag("named")],
    Discriminator(lambda value: "number" if isinstance(value, int | float) else "named"),
]


class LossWeights(ConfigSection):
    """Weights of the three terms of distillation."""

    task_weight: LossWeight = Field(
        description="Weight of the diffusion loss. A list of [progress, weight] points makes a schedule."
    )
    output_weight: LossWeight = Field(
        description="Weight of the difference to the teacher's prediction (published for SD-Small and SD-Tiny: 0.5)."
    )
    feature_weight: LossWeight = Field(
        description="Weight of the difference to the teacher's features, block by block (published: 0.5)."
    )

    @field_validator("task_weight", "output_weight", "feature_weight")
    @classmethod
    def _check_schedule_increasing(cls, weight: LossWeight) -> LossWeight:
        if isinstance(weight, list):
            fractions = [fraction for fraction, _ in weight]
            if fractions != sorted(set(fractions)):
                raise ValueError(f"the shares of the training must increase from point to point, got {fractions}")
        return weight

    @model_validator(mode="after")
    def _check_any_weight(self) -> Self:
        if not (
            is_weight_active(self.task_weight)
            or is_weight_active(self.output_weight)
            or is_weight_active(self.feature_weight)
        ):
            raise ValueError("task_weight, output_weight and feature_weight are all 0: there is nothing to learn")
        return self


class Phase(LossWeights):
    """A part of a distillation, an entry of `distill.phases`; completed (see `read_params`)."""

    steps: PositiveInt = Field(description="Steps of this phase.")
    teacher: EntryName | None = Field(description="Entry of teachers; null: the section teacher.")
    plan: PhasePlan | None = Field(
        description="Fraction of the student's removals made in this phase, or a plan's name; null: the student's "
        "own plan."
    )
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="Peak learning rate of this phase.")


class Distill(DiffusionTraining, LossWeights):
    """Weights of the three terms as in SD-Small and SD-Tiny (segmind/distill-sd): 1, 0.5, 0.5."""

    phases: list[Phase] = Field(
        description="Successive phases with their own teacher, plan, steps, rate and weights: docs/phases.md."
    )
    features: FeatureMode | None = Field(
        description="block-bk, block-segmind, sub-block or self-attention; null: as the student's plan says."
    )
    feature_normalization: FeatureNormalization = Field(
        description="teacher: divide by the mean square of the teacher's feature. none: as published."
    )

    @model_validator(mode="after")
    def _check_phases(self) -> Self:
        if not self.phases:
            return self
        if self.steps != (total_steps := sum(phase.steps for phase in self.phases)):
            raise ValueError(
                f"steps: {self.steps}, but its phases have {total_steps} together; write steps: {total_steps}"
            )
        fractions = [phase.plan for phase in self.phases if isinstance(phase.plan, float)]
        if fractions != sorted(fractions):
            raise ValueError(f"phases: the share of cuts (plan) must not fall from phase to phase, got {fractions}")
        if isinstance(last := self.phases[-1].plan, float) and last < 1:
            raise ValueError(f"phases: the last one makes {last} of the student's cuts; plan: null makes all of them")
        if self.patience is not None:
            raise ValueError("patience: a training in phases has the steps that they name; patience: null")
        return self

    @model_serializer(mode="wrap")
    def _omit_empty_phases(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without phases the section is what it was before there were any: results are known by its digest."""
        return {name: value for name, value in serialize(self).items() if name != "phases" or value}


def is_weight_active(weight: LossWeight) -> bool:
    """Whether a weight is ever above 0."""
    return any(value for _, value in weight) if isinstance(weight, list) else weight > 0
