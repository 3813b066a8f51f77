"""The one error of the builder."""

__all__ = ["Trouble"]


class Trouble(Exception):
    """The site cannot be built, or is not right; the message says where, and what to do."""
