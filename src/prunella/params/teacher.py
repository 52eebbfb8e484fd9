"""Sections `teacher` and `teachers`: the model to compress."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prunella.params.fields import ConfigSection


class ModelSource(ConfigSection):
    """The model to be made smaller: a diffusers pipeline folder, a checkpoint of one file, or a Hub id."""

    source: Literal["bundled", "folder", "file", "hub"] = Field(
        description="bundled (the miniature), folder, file or hub."
    )
    path: Annotated[str, Field(min_length=1)] = Field(
        description="folder: a diffusers pipeline folder. file: a .safetensors checkpoint."
    )
    id: str | None = Field(description="hub: owner/model. `path` is then ignored.")
    revision: Annotated[str, Field(min_length=1)] = Field(
        description="hub: branch, tag or commit. It is pinned to its commit when it is first resolved."
    )
    config: str | None = Field(
        description="file: folder or Hub id with the configs and tokenizers; null: those of the original model."
    )
    allow_pickle: bool = Field(
        description=".bin and .ckpt files: loading a pickle can run any code that the file contains."
    )

    @model_validator(mode="after")
    def _check_hub_id(self) -> Self:
        if self.source == "hub" and not self.id:
            raise ValueError("source hub needs an id such as stable-diffusion-v1-5/stable-diffusion-v1-5")
        return self
