"""Pages from templates: everything that comes from a run is escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str) -> Template:
    """A template of this package; a name that it uses and nobody gives is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("thinet.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(name)
