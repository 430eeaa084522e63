"""What segmentation of volumes and of images share: networks, windows, training, inference and the record."""
