"""Classification of images: networks, trainers, inferers, the scoring pass and tools for labels."""
