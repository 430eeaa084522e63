"""All routes of ours ask who is there."""

import importlib

import pytest
from monailabel.endpoints.user.auth import RBAC

MODULES = ("routes", "pages", "stock", "grading", "pseudo_labels", "ohif", "proxy", "sign_in", "logs", "api_page")
OPEN = {"/al/grade", "/al/web/{name}", "/al/sign-in", "/al/sign-out", "/auth/token", "/", "/docs", "/al/api/{name}"}
"""Pages without any data, whose requests need a role; and how one gets a role."""


@pytest.mark.parametrize("module", MODULES)
def test_every_route_needs_a_role(module):
    for route in importlib.import_module(f"apps.{module}").router.routes:
        roles = [one.call for one in route.dependant.dependencies if isinstance(one.call, RBAC)]
        assert bool(roles) != (route.path in OPEN), route.path


def test_what_changes_something_needs_more_than_a_reader():
    from monailabel.config import settings

    for module in MODULES:
        for route in importlib.import_module(f"apps.{module}").router.routes:
            if {"PUT", "DELETE"} & route.methods and not route.path.startswith(("/session", "/proxy{rest")):
                (role,) = [one.call for one in route.dependant.dependencies if isinstance(one.call, RBAC)]
                assert settings.MONAI_LABEL_AUTH_ROLE_USER not in vars(role).values(), route.path
