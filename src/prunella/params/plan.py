"""Sections `plan` and `prune`."""

from typing import Annotated, Literal

from pydantic import Field

from prunella.params.fields import BudgetLimit, ConfigSection, EntryName, PositiveInt, Precision, Seed, StorageDtype


class PlanRequest(ConfigSection):
    """A student that chooses itself."""

    budget: Annotated[dict[Literal["params", "macs", "ms"], BudgetLimit], Field(min_length=1, max_length=1)] = Field(
        description="Upper limit as {params: N}, {macs: N} or {ms: N}. Below 1: a fraction of the teacher's. A "
        "student's name: the cost of that student."
    )
    keep: list[Annotated[str, Field(pattern=r"^(mid|(down|up)\.\d(\.\d)?)$")]] = Field(
        description="Blocks that stay, like mid, down.1 or up.2.0."
    )
    attention: bool = Field(description="Whether all attention of a stage may be removed.")


class PlanSearch(ConfigSection):
    """How students are chosen; what is asked of each is in `students`."""

    samples: PositiveInt = Field(description="Held-out pairs that candidates are measured on.")
    candidates: PositiveInt = Field(description="Candidates that are measured as whole students.")
    tournament_rounds: Annotated[int, Field(ge=0, le=8)] = Field(
        description="Rounds of a tournament of 2^rounds candidates; 0: the lowest error before training wins."
    )
    steps: PositiveInt = Field(description="Training steps of each candidate in a round.")
    batch_size: PositiveInt = Field(description="Examples a step.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(description="Learning rate of a round.")
    precision: Precision = Field(description="fp32, tf32, bf16 or fp16.")
    seed: Seed = Field(description="Seed of the search.")
    students: dict[EntryName, PlanRequest] = Field(
        description="Students to search for, as {NAME: {budget: ..., keep: ..., attention: ...}}."
    )


class Prune(ConfigSection):
    storage: StorageDtype = Field(description="Precision of UNet and VAE on disk: fp32 or fp16.")
