"""The one error that is a user's to mend: printed as one line, without a stack trace."""


class UserError(Exception):
    """Says what is wrong, what was expected and what to do, in one sentence or two."""
