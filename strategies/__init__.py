"""Published methods: `strategies/x.py` defines the one that is called `x`. See docs/adding-a-method.md."""

FCIL = True
