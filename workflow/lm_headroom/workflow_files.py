"""Where the workflow's files lie: beside the package in a checkout, inside it where a wheel was installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
IMPORT_FOLDER = PACKAGE.parent
"""The folder that Python imports the package from."""
_SHIPPED = PACKAGE / "workflow"
ROOT = _SHIPPED if _SHIPPED.is_dir() else IMPORT_FOLDER.parent
"""Holds the Snakefile and the default profile."""
WORKFLOW = ROOT / "workflow"
"""Holds the rules, the hardware table, and the folders of tasks and studies."""
