"""Digests of the rendered prompts of the study's tasks: the records themselves are not part of the project."""
