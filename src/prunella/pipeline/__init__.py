"""A DVC stage from the command line to its report: checks before it, inputs guarded, disk and progress."""
