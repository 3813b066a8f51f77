"""Values in a class that look like settings and are none, since `dataclass` goes by annotations alone."""

import dataclasses
import inspect

__all__ = ["check_defaults", "unannotated"]

PLAIN = (bool, int, float, str, tuple, type(None))


def _plain(kind: type) -> dict[str, object]:
    """The plain values that a class itself has under public names, and has not annotated."""
    noted = inspect.get_annotations(kind)
    values = {name: value for name, value in vars(kind).items() if not name.startswith("_") and name not in noted}
    return {name: value for name, value in values.items() if isinstance(value, PLAIN)}


def check_defaults(kind: type) -> None:
    """Refuse a value without an annotation under the name of a parent's setting: the parent's default would stay.

    Raises:
        TypeError: names it.
    """
    parents = [base for base in kind.__mro__[1:] if dataclasses.is_dataclass(base)]
    settings = {field.name: base for base in reversed(parents) for field in dataclasses.fields(base) if field.init}
    for name in _plain(kind).keys() & settings.keys():
        value, base = vars(kind)[name], settings[name]
        raise TypeError(
            f"{kind.__name__}: {name} = {value!r} has no effect: {name} is a setting of {base.__name__}, and without "
            f"an annotation its default stays. Repeat the annotation, {name}: Annotated[..., Option(...)] = {value!r}"
        )


def unannotated(kind: type) -> dict[str, object]:
    """Numbers and texts of a class itself that look like settings: without annotation, in small letters, new here."""
    inherited = {name for base in kind.__mro__[1:] for name in vars(base)}
    return {
        name: value
        for name, value in _plain(kind).items()
        if isinstance(value, int | float | str) and name == name.lower() and name not in inherited
    }
