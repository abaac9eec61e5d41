"""From a command line to a run: the configuration and its checks, Hydra kept within bounds."""
