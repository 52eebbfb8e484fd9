"""The part of a model that learns: what is optimised, averaged and kept; the frozen rest is none of these."""

from typing import Any

from torch import Tensor, nn

from prunella.compute.fsdp import shard_like
from prunella.errors import UserError


class TrainableState:
    """A model's parameters that ask for a gradient, and all its buffers. All parameters of a model that learns
    whole."""

    def __init__(self, model: nn.Module):
        self.model = model

    def parameters(self) -> list[nn.Parameter]:
        """In the model's order."""
        return [part for part in self.model.parameters() if part.requires_grad]

    def count(self) -> int:
        """How many numbers are learned."""
        return sum(part.numel() for part in self.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """The learned parameters, by their names in the model."""
        frozen = {name for name, part in self.model.named_parameters() if not part.requires_grad}
        return {name: value for name, value in self.model.state_dict().items() if name not in frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises UserError where that was of another model."""
        ours = self.state_dict()
        if ours.keys() != state.keys():
            mismatched = sorted(ours.keys() ^ state.keys())
            raise UserError(
                f"a state of another model: {mismatched[0]} ({len(mismatched)} in all) is in only one of the two"
            )
        self.model.load_state_dict({name: shard_like(value, ours[name]) for name, value in state.items()}, strict=False)
