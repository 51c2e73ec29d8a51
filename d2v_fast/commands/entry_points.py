"""Modalities of other packages, which the command line finds by their entry points."""

from __future__ import annotations

from importlib.metadata import entry_points

from d2v_fast.errors import ConfigError

GROUP = "d2v_fast.modalities"
"""A package that brings a modality names the module that registers it in this group of its entry points."""


def import_modalities() -> None:
    """Import every module that an installed package names in `GROUP`.

    Only the commands do that; the library imports nothing by itself.

    Raises:
        ConfigError: One of them cannot be imported; the message names it and its package.
    """
    for point in entry_points(group=GROUP):
        try:
            point.load()
        except Exception as error:
            package = point.dist.name if point.dist is not None else "unknown"
            raise ConfigError(
                f"the modality {point.name!r} of the package {package} cannot be imported ({point.value}): "
                f"{type(error).__name__}: {error}; mend or uninstall that package"
            ) from error
