"""Everything Lightning: training, evaluation, loggers and processes."""
