"""Where voxels lie: grids, volumes, slices, pictures."""
