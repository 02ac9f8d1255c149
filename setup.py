"""Add the workflow's files to the wheel, as ``lm_headroom/workflow``; pyproject.toml has all else."""

from setuptools import find_packages, setup

SHIPPED = ["Snakefile", "config.yaml", "envs/*.yaml", "profiles/*/config.yaml", "workflow/*.yaml"]
SHIPPED += [f"workflow/{folder}/**/*" for folder in ("report", "rules", "schemas", "studies", "tasks")]

setup(
    packages=[*find_packages("workflow", include=["lm_headroom*"]), "lm_headroom.workflow"],
    package_dir={"": "workflow", "lm_headroom.workflow": "."},
    package_data={"lm_headroom.workflow": SHIPPED},
    # The manifest of a checkout would add whatever version control tracks.
    include_package_data=False,
)
