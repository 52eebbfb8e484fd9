"""Sections `export` and `promote`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prunella.params.fields import ConfigSection, ModelName

ExportFormat = Literal["single-file", "onnx", "int8", "fp8", "int4"]  # that a student leaves in


class Export(ConfigSection):
    """Parameters of stage `export`; none by default."""

    students: list[ModelName] = Field(
        description="Students whose fine-tuned weights are exported to models/exported/STUDENT/."
    )
    to: Annotated[list[ExportFormat], Field(min_length=1)] = Field(description="single-file, onnx, int8, fp8 or int4.")
    dtype: Literal["fp16", "bf16", "fp32"] | None = Field(
        description="fp16, bf16 or fp32; null: the default of each format."
    )


class Gate(ConfigSection):
    """The bound that a figure of the benchmark must be for a student to be promoted."""

    metric: Annotated[str, Field(min_length=1)] = Field(description="Name of a figure in reports/benchmark.json.")
    min: float | None = Field(description="Smallest allowed value.")
    max: float | None = Field(description="Largest allowed value.")
    relative_to_teacher: bool = Field(description="Compare the ratio to the teacher's figure.")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"the gate for {self.metric} asks for nothing: give it a min or a max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"the gate for {self.metric}: its min {self.min} is above its max {self.max}")
        return self


class Promote(ConfigSection):
    """The student that may be served; no stage depends on it."""

    alias: ModelName = Field(description="Alias in MLflow's model registry.")
    gates: list[Gate] = Field(description="Conditions on figures of reports/benchmark.json.")
