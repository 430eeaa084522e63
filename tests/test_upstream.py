"""What is relied on of the inside of MONAI Label, FastAPI and Starlette: an upgrade that changes it fails here."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.tasks.infer.basic_infer import BasicInferTask
from monailabel.tasks.train.basic_train import BasicTrainTask

from apps.server.app import ActiveLearningApp
from tasks.datastore.archive import ArchiveFolder
from tasks.datastore.folder import StudiesFolder
from tasks.learning.inference import CurrentModelInferTask
from tasks.learning.training import MembersTrainTask
from tests.test_architecture import CODE, ROOT, imported, modules

UPSTREAM = ROOT / "apps" / "upstream.py"
INSIDE = ("monailabel.app", "monailabel.main", "monailabel.endpoints", "starlette.routing", "fastapi.dependencies")
"""Modules that only ``apps/upstream.py`` may import from."""
FOR_EVERYBODY = ("monailabel.endpoints.user.auth.User", "monailabel.endpoints.user.auth.RBAC")
INSIDE_OF_THE_APPLICATION = {"middleware_stack", "user_middleware", "dependant"}

RELIED_ON = {
    "monailabel.app": ("app",),
    "monailabel.endpoints.datastore": (
        *("ResultType", "datastore", "download_image", "download_label", "get_image_info", "get_label_info"),
    ),
    "monailabel.endpoints.infer": ("ResultType",),
    "monailabel.endpoints.model": ("download_model", "model_info", "delete_model"),
    "monailabel.endpoints.user.auth": ("from_token", "DEFAULT_USER", "User", "RBAC"),
    "starlette.routing": ("compile_path", "BaseRoute"),
    "anyio.to_thread": ("current_default_thread_limiter",),
}
"""Module -> names in it."""
INHERITED = {
    (StudiesFolder, LocalDatastore): (
        *("add_image", "get_image_info", "get_labeled_images", "refresh", "remove_image", "remove_label"),
        *("save_label", "status", "update_image_info", "update_label_info", "datalist", "get_image_uri"),
        *("get_label_uri", "get_label_info", "get_labels_by_image_id", "name"),
    ),
    (ArchiveFolder, LocalDatastore): ("datalist", "get_image_uri", "name"),
    (CurrentModelInferTask, BasicInferTask): (
        *("_get_network", "get_path", "is_valid", "pre_transforms", "post_transforms", "inferer", "writer"),
    ),
    (MembersTrainTask, BasicTrainTask): (
        *("_create_evaluator", "_create_trainer", "_dataloader", "finalize", "lr_scheduler_handler", "network"),
        *("optimizer", "partition_datalist", "pre_process", "stats", "train_handlers", "train_post_transforms"),
        *("loss_function", "train_pre_transforms", "val_inferer", "val_key_metric", "val_post_transforms"),
        *("val_pre_transforms", "val_additional_metrics"),
    ),
    (ActiveLearningApp, MONAILabelApp): (
        *("init_datastore", "init_strategies", "init_trainers", "init_infers", "init_scoring_methods", "info"),
        *("infer", "next_sample", "on_save_label", "on_init_complete", "datastore", "sessions", "_load_sessions"),
    ),
}
"""Our class and the one it derives from -> methods by which MONAI Label calls ours, or ours MONAI Label's."""


@pytest.mark.parametrize("module", RELIED_ON)
def test_what_is_relied_on_is_there(module):
    missing = [name for name in RELIED_ON[module] if not hasattr(importlib.import_module(module), name)]
    assert not missing, f"{module} no longer has {', '.join(missing)}: see apps/upstream.py"


@pytest.mark.parametrize("ours", INHERITED, ids=lambda pair: pair[0].__name__)
def test_what_is_inherited_or_replaced_is_there(ours):
    own, theirs = ours
    missing = [name for name in INHERITED[ours] if not hasattr(theirs, name)]
    assert not missing, f"{theirs.__name__} no longer has {', '.join(missing)}: see {own.__module__}"


@pytest.mark.parametrize("ours", INHERITED, ids=lambda pair: pair[0].__name__)
def test_private_attributes_that_are_used_are_ours_or_still_theirs(ours):
    own, theirs = ours
    lines = "".join(inspect.getsource(kind) for kind in own.__mro__ if kind.__module__.split(".")[0] in CODE)
    upstream = "".join(inspect.getsource(kind) for kind in theirs.__mro__ if kind is not object)
    set_by_us = _assigned(lines)
    used = {node.attr for node in ast.walk(ast.parse(lines)) if _is_private_of_self(node)}
    missing = sorted(name for name in used - set_by_us if name not in upstream)
    assert not missing, f"{theirs.__name__} no longer has {', '.join(missing)}: see {own.__module__}"


def _is_private_of_self(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
    )


def _assigned(source: str) -> set[str]:
    """Methods and attributes that a class body gives itself."""
    tree = ast.parse(source)
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    targets = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }
    return functions | targets


def test_only_one_file_knows_the_inside():
    for path in (path for room in CODE for path in modules(room) if path != UPSTREAM):
        for name in imported(path):
            inside = [module for module in INSIDE if name == module or name.startswith(f"{module}.")]
            assert not inside or name in FOR_EVERYBODY, f"{path} imports {name}: only apps/upstream.py may"


def test_only_one_file_uses_private_names_of_others():
    sources = {path: ast.parse(path.read_text()) for room in CODE for path in modules(room)}
    own = {name for tree in sources.values() for name in _assigned(ast.unparse(tree))}
    for path, tree in sources.items():
        if path == UPSTREAM:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and not _is_private_of_self(node):
                private = (
                    node.attr.startswith("_") and not node.attr.startswith("__") and node.attr not in {*own, "_exit"}
                )
                assert not private, f"{path}:{node.lineno} uses {node.attr}"
                assert node.attr not in INSIDE_OF_THE_APPLICATION, f"{path}:{node.lineno} uses {node.attr}"


def test_the_application_has_what_is_changed_in_it():
    from fastapi import FastAPI

    server = FastAPI()
    for name in ("middleware_stack", "user_middleware", "router", "exception_handlers"):
        assert hasattr(server, name), f"FastAPI no longer has {name}: see apps/upstream.py"
    assert isinstance(server.router.routes, list)


def test_ohif_ships_with_monai_label():
    from apps.upstream import OHIF

    assert (Path(OHIF) / "index.html").is_file()
    assert (Path(OHIF) / "app-config.js").is_file()
