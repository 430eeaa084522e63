"""Voxels of one grid on another."""

import nibabel
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import inv_ornt_aff
from scipy.spatial.transform import Rotation

from tasks.geometry.grid import Grid, onto

TURN = Rotation.from_euler("xyz", [15, -5, 7], degrees=True).as_matrix()
OBLIQUE = nibabel.affines.from_matvec(TURN @ np.diag([0.8, 0.8, 4.0]), [10, -20, 30])


@settings(max_examples=60, deadline=None)
@given(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.integers(0, 2**32 - 1),
)
def test_reordering_loses_no_voxel_and_moves_none_in_space(axes, flips, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, 3))
    image = Grid(shape, OBLIQUE)
    values = rng.integers(0, 3, shape)
    turn = np.column_stack([axes, flips])
    other = Grid(tuple(np.array(shape)[np.argsort(axes)]), OBLIQUE @ inv_ornt_aff(turn, shape))
    back, _ = onto(nibabel.orientations.apply_orientation(values, turn), other, image)
    np.testing.assert_array_equal(back, values)
