"""Which examples a step sees: every epoch in an order of its own, by seed; a pure function of the step."""

import numpy as np


def examples(step: int, batch_size: int, size: int, seed: int) -> np.ndarray:
    """Indices (batch_size,) below `size` for `step`. A batch may reach over the end of an epoch into the next."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = {epoch: np.random.default_rng([seed, epoch]).permutation(size) for epoch in np.unique(places // size)}
    return np.array([epochs[place // size][place % size] for place in places])
