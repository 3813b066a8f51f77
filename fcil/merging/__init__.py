"""Merge models in closed form: pure functions over arrays, one module per family of methods.

Inputs are not changed, and nothing is random but DARE's masks, for which the caller gives the generators.
"""
