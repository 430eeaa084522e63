"""2D classification; see :mod:`tasks.classification.task`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp

from apps.routes import grading
from apps.server.app import ActiveLearningApp
from apps.server.options import ImageOptions
from tasks.classification.task import ClassificationTask


class ImageClassification(ActiveLearningApp, MONAILabelApp):
    """Grades, and the page for them."""

    task_type = ClassificationTask
    options_type = ImageOptions
    routers = (grading.router,)
