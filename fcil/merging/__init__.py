"""Closed forms as pure functions over arrays, one file per family. Inputs are not changed; nothing is random."""
