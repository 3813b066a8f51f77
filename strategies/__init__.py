"""Published methods, one file each: `strategies/x.py` defines the method that is called `x`. See docs/adding-a-method.md."""

FCIL = True
