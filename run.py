"""Run one experiment, or a sweep with -m; ``python run.py --help`` lists every option."""

if __name__ == "__main__":  # and not in a process that only imports this one
    from thinet.base.lifeline import begin

    begin()

from typing import Any

import hydra

from thinet.app.cli_errors import errors_as_sentences, register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: Any) -> Any:
    """Hand the composed configuration to thinet; torch is imported only now."""
    from thinet.app.main import run

    return run(cfg)


if __name__ == "__main__":
    errors_as_sentences(main)
