"""Section `runtime`."""

from typing import Literal

from pydantic import Field

from prunella.params.fields import ConfigSection, NonNegativeInt, PositiveInt


class Runtime(ConfigSection):
    engine: Literal["local", "ray"] = Field(
        description="local, or ray: filter, encode and generate run on the cluster at $RAY_ADDRESS (docs/scale.md)."
    )
    device: str = Field(description="auto, cpu, cuda, cuda:1 or mps.")
    workers: NonNegativeInt = Field(description="Threads that read and decode images; 0: one for each core.")
    processes: PositiveInt = Field(
        description="Processes of generate, encode, distill and finetune; each has its own GPU."
    )
    threads: NonNegativeInt = Field(description="Threads of torch; 0: torch decides.")
    compile: Literal["auto"] | bool = Field(description="torch.compile; auto: on a GPU.")
    channels_last: Literal["auto"] | bool = Field(
        description="Memory layout of convolutions; auto: on a GPU without fsdp."
    )
    fsdp: bool = Field(description="Shard weights, gradients and optimizer state over the processes (docs/scale.md).")
    micro_batch: Literal["auto"] | PositiveInt = Field(
        description="Examples in one forward pass of a training; auto: as many as the memory holds."
    )
