"""Which class of a ``main.py`` MONAI Label starts, and from which folder."""

import re
import site
import sysconfig
from pathlib import Path

import pytest
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.others.class_utils import get_class_of_subclass_from_file

from apps.server.entry import check_entry, check_main
from apps.server.options import ConfigurationError
from apps.volume_segmentation.app import VolumeApp
from apps.volume_segmentation.main import VolumeSegmentation

ENTRY = "from monailabel.interfaces.app import MONAILabelApp"
BASE = "from apps.volume_segmentation.app import VolumeApp"


@pytest.mark.parametrize(
    "text",
    [
        f"{ENTRY}\n{BASE}\nclass Mine(VolumeApp, MONAILabelApp): pass",
        f"{ENTRY} as Server\n{BASE}\nclass Mine(VolumeApp, Server): pass",
        f"from monailabel.interfaces import app\n{BASE}\nclass Mine(VolumeApp, app.MONAILabelApp): pass",
        f"{ENTRY}\n{BASE}\nclass Bed(VolumeApp): pass\nclass Mine(Bed, MONAILabelApp): pass",
    ],
    ids=["plain", "renamed", "of a module", "base beside it"],
)
def test_a_class_that_monai_label_starts_is_taken_however_its_base_is_written(tmp_path, text):
    (tmp_path / "main.py").write_text(f"{text}\n")
    started = get_class_of_subclass_from_file("main", str(tmp_path / "main.py"), "MONAILabelApp")
    assert started.__name__ == "Mine"
    check_entry(started, tmp_path)
    check_main(started, tmp_path / "main.py")


class Ward(VolumeApp):
    """A base of one's own, in another file than ``main.py``."""


class ReadyWard(Ward, MONAILabelApp):
    """A class that MONAI Label starts, in another file than ``main.py``."""


@pytest.mark.parametrize("name", ["Aaa", "Zzz"])
@pytest.mark.parametrize("base", [VolumeSegmentation, ReadyWard])
def test_the_advice_starts_the_class_whatever_its_name(tmp_path, base, name):
    main = tmp_path / "main.py"
    main.write_text(f"from {base.__module__} import {base.__name__}\nclass {name}({base.__name__}): pass\n")
    with pytest.raises(ConfigurationError) as caught:
        check_entry(base, tmp_path)
    module, line = re.search(r"import (\w+ from [\w.]+), and write `(class .*)`", str(caught.value)).groups()
    imported, _, module = module.split()
    main.write_text(f"{ENTRY}\nfrom {module} import {imported}\n{line}: pass\n")
    started = get_class_of_subclass_from_file("main", str(main), "MONAILabelApp")
    assert started.__name__ == name
    check_entry(started, tmp_path)


def test_the_advice_for_a_class_without_the_base_keeps_its_own_base(tmp_path):
    main = tmp_path / "main.py"
    main.write_text(f"from {Ward.__module__} import Ward\nclass Mine(Ward): pass\n")
    with pytest.raises(ConfigurationError, match=r"import Ward from .*test_entry, and write `class Mine\(Ward, MONAI"):
        check_main(type("Mine", (Ward,), {}), main)


@pytest.mark.parametrize("place", [sysconfig.get_path("purelib"), site.getusersitepackages()], ids=["all", "user"])
def test_a_folder_of_installed_packages_is_refused(place):
    with pytest.raises(ConfigurationError, match="part of an installed package"):
        check_entry(VolumeSegmentation, Path(place) / "apps" / "volume_segmentation")
