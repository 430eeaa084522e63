"""3D segmentation; see :mod:`tasks.volume_segmentation.task`."""
