"""What the tests share: where the repository is, and that under CI=true no test may be skipped for want of a browser."""

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Chromium or Chrome; without one the test is skipped, with the reason, or fails where CI=true."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"):
        if path := shutil.which(name):
            return path
    reason = "no Chromium or Chrome on the PATH: the built site was not opened in a browser"
    pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
