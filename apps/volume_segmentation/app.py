"""3D segmentation; see :mod:`tasks.volume_segmentation.task`."""

from apps.routes import ohif
from apps.server.app import ActiveLearningApp
from apps.server.options import VolumeOptions
from tasks.volume_segmentation.task import VolumeTask


class VolumeApp(ActiveLearningApp):
    """Volumes, in OHIF too."""

    task_type = VolumeTask
    options_type = VolumeOptions
    routers = (ohif.router,)
