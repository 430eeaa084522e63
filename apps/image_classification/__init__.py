"""2D classification; see :mod:`tasks.classification.task`."""
