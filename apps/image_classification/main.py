"""What ``monailabel start_server --app apps/image_classification`` loads."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from monailabel.interfaces.app import MONAILabelApp

from apps.image_classification.app import ClassificationApp


class ImageClassification(ClassificationApp, MONAILabelApp):
    """Grades, and the page for them."""
