"""DICOM: an archive's series as volumes, and label maps as DICOM SEG."""
