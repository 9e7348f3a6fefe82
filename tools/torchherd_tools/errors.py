"""The errors that a command reports in one line."""


class ToolError(Exception):
    """A command failed. The text has what happened, to what, and what to do."""
