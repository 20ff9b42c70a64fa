"""The one exception a user is meant to read: what was found, what was expected, what to change."""


class InputError(Exception):
    """A file, a value or a combination the workflow cannot work with. Printed without a traceback."""
