"""What ``monailabel start_server --app apps/volume_segmentation`` loads."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp

from apps.volume_segmentation.app import VolumeApp


class VolumeSegmentation(VolumeApp, MONAILabelApp):
    """Volumes, in OHIF too."""
