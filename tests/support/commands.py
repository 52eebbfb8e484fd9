"""The console script, called as the command line does."""

import pytest

from prunella.cli.main import main


def said(capsys, *arguments: str) -> str:
    """What the command prints."""
    main(list(arguments))
    return capsys.readouterr().out


def refused(*arguments: str) -> str:
    """The one line with which the command ends."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code
