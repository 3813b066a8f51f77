"""Federated class-incremental learning with a frozen ViT."""

from fcil.checkout import install

install()
