"""Add the workflow's files to the wheel, as ``lm_headroom/workflow``; pyproject.toml has all else."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FILES = "lm_headroom.workflow"
SHIPPED = ["Snakefile", "config.yaml", "envs/*.yaml", "profiles/*/config.yaml", "workflow/*.yaml"]
SHIPPED += [f"workflow/{folder}/**/*" for folder in ("report", "rules", "schemas", "studies", "tasks")]


class BuildPy(build_py):
    """Takes no module from the checkout's folder: this file lies there."""

    def find_package_modules(self, package, package_dir):
        """Modules of a package."""
        return [] if package == FILES else super().find_package_modules(package, package_dir)


setup(
    cmdclass={"build_py": BuildPy},
    packages=[*find_packages("workflow", include=["lm_headroom*"]), FILES],
    package_dir={"": "workflow", FILES: "."},
    package_data={FILES: SHIPPED},
    # The manifest of a checkout would add whatever version control tracks.
    include_package_data=False,
)
