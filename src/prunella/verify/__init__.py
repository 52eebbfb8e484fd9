"""Accept results after a change of code: old and new code run on toys and are compared."""
