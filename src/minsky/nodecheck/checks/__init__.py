"""The checks, by what they look at. Any module here is found; a check is a function under `@check`."""
