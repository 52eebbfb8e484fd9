"""Types of parameters that several sections share."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_COUNT = 2**40  # of anything counted: beyond it lies a slip of the keyboard, and work without end
PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Pixels = Annotated[int, Field(ge=8, le=2**16)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]  # tf32: as fp32, but for a GPU's matrix products
StorageDtype = Literal["fp32", "fp16"]
ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]  # of a student, and of its files and folders
EntryName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]  # of a section; without dots, which part keys
BudgetLimit = Annotated[float, Field(gt=0)] | ModelName


class ConfigSection(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)
