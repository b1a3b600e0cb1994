"""What the tests share: where the repository is, and that under CI=true no test may be skipped for want of a browser."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("book", deadline=None, derandomize=True)  # a busy machine is no error, and a failure can be repeated
settings.load_profile("book")

ROOT = Path(__file__).resolve().parents[1]


def skip_except_in_ci(reason: str) -> None:
    """Skip the test, with the reason; where CI=true everything must be there, so fail it."""
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    skip_except_in_ci("no Chromium or Chrome on the PATH: the built site was not opened in a browser")


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site, with the browser's libraries in it."""
    folder = ROOT / "build/site"
    if not (folder / "index.html").exists():
        pytest.fail("there is no site in build/site: run `make book`")
    if not (folder / "_static/vendor/widgets").exists():
        skip_except_in_ci("this site was built without npm, so its pages load their libraries from a public server")
    return folder
