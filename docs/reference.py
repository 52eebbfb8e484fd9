"""The reference of what `prunella` offers to Python, from its docstrings: HTML in docs/api (`make api`)."""

import sys
from pathlib import Path

import pdoc

import prunella


def main(out: Path) -> None:
    """Write the pages; pdoc knows a name only when it is loaded."""
    for name in prunella.__all__:
        setattr(prunella, name, getattr(prunella, name))
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.pdoc("prunella", output_directory=out)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("api"))
