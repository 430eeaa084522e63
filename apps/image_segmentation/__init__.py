"""2D segmentation; see :mod:`tasks.image_segmentation.task`."""
