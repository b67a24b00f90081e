"""Maps the top-level `configs/` folder into the package as `bigtrain.configs`.

Everything else lives in pyproject.toml. A wheel, an sdist and `pip install -e` all honour this mapping.
setuptools leaves a folder without an `__init__.py` out without a word; tests/test_packaging.py would say so.
"""

from setuptools import find_packages, setup

config_packages = ["bigtrain.configs", *(f"bigtrain.configs.{name}" for name in find_packages("configs"))]

setup(
    packages=[*find_packages(include=["bigtrain", "bigtrain.*"]), *config_packages],
    package_dir={"bigtrain": "bigtrain", "bigtrain.configs": "configs"},
    package_data={"bigtrain": ["py.typed"], **{name: ["*.yaml"] for name in config_packages}},
)
