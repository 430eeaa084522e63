"""What ``monailabel start_server --app apps/image_segmentation`` loads."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp

from apps.image_segmentation.app import ImageSegmentationApp


class ImageSegmentation(ImageSegmentationApp, MONAILabelApp):
    """Images, and pseudo-labels."""
