"""Closed forms as pure functions over arrays, one file per family. No network, no randomness, inputs are not changed."""
