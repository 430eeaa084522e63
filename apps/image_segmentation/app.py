"""2D segmentation; see :mod:`tasks.image_segmentation.task`."""

from apps.routes import pseudo_labels
from apps.server.app import ActiveLearningApp
from apps.server.options import SliceOptions
from tasks.image_segmentation.task import ImageSegmentationTask


class ImageSegmentationApp(ActiveLearningApp):
    """Images, and pseudo-labels."""

    task_type = ImageSegmentationTask
    options_type = SliceOptions
    routers = (pseudo_labels.router,)
