"""2D segmentation; see :mod:`tasks.image_segmentation.task`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp

from apps.routes import pseudo_labels
from apps.server.app import ActiveLearningApp
from apps.server.options import ImageOptions
from tasks.image_segmentation.task import ImageSegmentationTask


class ImageSegmentation(ActiveLearningApp, MONAILabelApp):
    """Images, and pseudo-labels."""

    task_type = ImageSegmentationTask
    options_type = ImageOptions
    routers = (pseudo_labels.router,)
