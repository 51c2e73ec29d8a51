"""Entry point of the build: setuptools, with CMake for the compiled kernels (see CMakeLists.txt, pyproject.toml)."""

from setuptools import setup

setup(cmake_source_dir=".")
