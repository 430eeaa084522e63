"""3D segmentation; see :mod:`tasks.volume_segmentation.task`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp

from apps.routes import ohif
from apps.server.app import ActiveLearningApp
from apps.server.options import VolumeOptions
from tasks.volume_segmentation.task import VolumeTask


class VolumeSegmentation(ActiveLearningApp, MONAILabelApp):
    """Volumes, in OHIF too."""

    task_type = VolumeTask
    options_type = VolumeOptions
    routers = (ohif.router,)
