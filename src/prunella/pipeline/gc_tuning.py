"""How often a process looks for garbage: libraries of a million objects are not looked through again and again."""

import atexit
import gc

GC_THRESHOLD = 10_000  # objects made before Python looks at the youngest; 700 by default


def relax_gc() -> None:
    """Look for reference cycles less often, and not at all at the end, where the system takes the memory anyway.

    A stage that loads torch, diffusers and MLflow is shorter by three seconds of nine so (docs/performance.md).
    """
    gc.set_threshold(GC_THRESHOLD)
    atexit.register(gc.freeze)
