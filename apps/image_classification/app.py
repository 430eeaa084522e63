"""2D classification; see :mod:`tasks.classification.task`."""

from apps.routes import grading
from apps.server.app import ActiveLearningApp
from apps.server.options import ImageOptions
from tasks.classification.task import ClassificationTask


class ClassificationApp(ActiveLearningApp):
    """Grades, and the page for them."""

    task_type = ClassificationTask
    options_type = ImageOptions
    routers = (grading.router,)
