"""Build the site: gather the pages and the executed chapters in one folder, fetch the browser's libraries, run Jupyter Book.

    python book/build_site.py

In: book/ and build/chapters/quick-s0/. Out: build/site/, readable with no network. The folder build/pages mirrors the layout
of the repository, so the buttons on a page point to the right file. MathJax and the widget player come from npm packages of
fixed contents, with the npm that the environment brings; where that fails, pages load them from a public server and the build
says so.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PAGES = BUILD / "pages"
CHAPTERS = BUILD / "chapters/quick-s0"
PACKAGES = BUILD / "npm"

# package@version, the sha256 of its archive, and what is taken: path in the package -> path under site_static/vendor
VENDORED = [
    (
        "mathjax@3.2.2",
        "1b9c0a1c44df864e915690558e72adb9cc5203360daefd385084ced3b6c64c09",
        {
            "es5/tex-mml-chtml.js": "mathjax/tex-mml-chtml.js",
            "es5/output/chtml/fonts": "mathjax/output/chtml/fonts",
            "es5/input/tex/extensions": "mathjax/input/tex/extensions",
        },
    ),
    ("requirejs@2.3.8", "777158e89275e16bd51aec3ef714fbcb5dc45789e7078659933bc814916d7dec", {"require.js": "require.js"}),
    (
        "@jupyter-widgets/html-manager@1.0.15",
        "2b9d65cb7913e1c7d671757a10008b32c9c2448d4429513371e55c07d6107638",
        {
            "dist/embed-amd.js": "widgets/embed-amd.js",
            "dist/1551f4f60c37af51121f.woff2": "widgets/1551f4f60c37af51121f.woff2",  # icons
            "dist/7a3337626410ca2f4071.woff2": "widgets/7a3337626410ca2f4071.woff2",
            "dist/d878b0a6a1144760244f.woff2": "widgets/d878b0a6a1144760244f.woff2",
        },
    ),
]
LOCAL_LIBRARIES = {
    "mathjax_path": "vendor/mathjax/tex-mml-chtml.js",
    "nb_ipywidgets_js": {"vendor/require.js": {}, "widgets.js": {}, "vendor/widgets/embed-amd.js": {}},
}
SHOWN_VERSIONS = [
    "torch",
    "torchvision",
    "numpy",
    "pandas",
    "matplotlib",
    "ipywidgets",
    "papermill",
    "snakemake",
    "jupyter-book",
]


def gather() -> None:
    """Lay out build/pages as the repository is laid out: book/ and notebooks/, the latter executed."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "book", PAGES / "book", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("site_static", "references.bib", "site_fixes.py"):
        (PAGES / "book" / folder).rename(PAGES / folder)
    (PAGES / "notebooks").mkdir()
    for chapter in sorted(CHAPTERS.glob("*.ipynb")):
        notebook = nbformat.read(chapter, as_version=4)
        before = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                before = cell.source
            else:
                cell.metadata["mystnb"] = {"image": {"alt": alternative_text(before)}}
                if "hide-cell" in cell.metadata.get("tags", []):
                    words = {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}
                    cell.metadata["mystnb"] |= words
        nbformat.write(notebook, PAGES / "notebooks" / chapter.name)
    (PAGES / "book/status.md").write_text(status_page(), encoding="utf-8")


def alternative_text(text: str) -> str:
    """What to say in place of a picture: the paragraph before it, which tells what to look for, without its markup."""
    paragraph = text.strip().split("\n\n")[-1]
    plain = re.sub(r"\{cite\}`[^`]*`|[`*$\\#{}]", "", paragraph)
    return "Figure. " + " ".join(plain.split())


def status_page() -> str:
    """A page that says what the site was built with and how long each chapter took."""
    lines = ["# How this site was built", "", "| chapter | cells | seconds |", "| --- | ---: | ---: |"]
    for chapter in sorted(CHAPTERS.glob("*.ipynb")):
        run = json.loads((BUILD / f"logs/quick-s0-{chapter.stem}.ipynb").read_text(encoding="utf-8"))
        seconds = run["metadata"]["papermill"]["duration"]
        cells = sum(cell["cell_type"] == "code" for cell in run["cells"])
        lines.append(f"| {{doc}}`../notebooks/{chapter.stem}` | {cells} | {seconds:.0f} |")
    lines += ["", f"All at the `quick` profile, on {os.cpu_count()} processor cores ({platform.machine()}).", ""]
    lines += ["| package | version |", "| --- | --- |", f"| Python | {platform.python_version()} |"]
    lines += [f"| {name} | {version(name)} |" for name in SHOWN_VERSIONS]
    return "\n".join(lines) + "\n"


def vendor(target: Path) -> bool:
    """Copy the browser's libraries to `target`; False if they cannot be had here. Other bytes than the pinned are an error."""
    try:
        for package, sha256, files in VENDORED:
            unpack(fetch(package, sha256), files, target)
    except (OSError, subprocess.SubprocessError) as error:
        print(
            f"no npm packages here ({error}): formulas and sliders of this build need a network when they are read",
            file=sys.stderr,
        )
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def fetch(package: str, sha256: str) -> Path:
    """The package's archive, from build/npm or from npm."""
    name, number = package.rsplit("@", 1)
    archive = PACKAGES / f"{name.replace('@', '').replace('/', '-')}-{number}.tgz"
    if fresh := not archive.exists():
        PACKAGES.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
        if npm is None:
            raise FileNotFoundError("npm not found")
        subprocess.run([npm, "pack", "--silent", package], cwd=PACKAGES, check=True, stdout=subprocess.DEVNULL, timeout=120)
    if (found := hashlib.sha256(archive.read_bytes()).hexdigest()) != sha256:
        archive.unlink()
        if not fresh:  # left by a run that was killed while it downloaded
            return fetch(package, sha256)
        raise ValueError(f"{package}: expected an archive with sha256 {sha256}, got {found}")
    return archive


def unpack(archive: Path, files: dict[str, str], target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            for source, destination in files.items():
                inside = member.name.removeprefix("package/")
                if member.isfile() and (inside == source or inside.startswith(source + "/")):
                    path = target / (destination + inside[len(source) :])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(tar.extractfile(member).read())


def configure(local: bool) -> Path:
    """Write the build's _config.yml: the book's own, with local libraries where they were found."""
    settings = yaml.safe_load((ROOT / "book/_config.yml").read_text(encoding="utf-8"))
    if local:
        settings["sphinx"]["config"].update(LOCAL_LIBRARIES)
    path = PAGES / "_config.yml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def main() -> None:
    gather()
    config = configure(vendor(PAGES / "site_static/vendor"))
    builder = [str(Path(sys.executable).with_name("jupyter-book")), "build", ".", "--config", config, "--toc", "book/_toc.yml"]
    options = ["--path-output", BUILD / "sphinx", "--all", "--quiet", "-W", "-n", "--keep-going"]
    run = subprocess.run([*builder, *options], cwd=PAGES, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if run.returncode:
        sys.exit(run.stdout)
    shutil.rmtree(BUILD / "site", ignore_errors=True)
    shutil.move(BUILD / "sphinx/_build/html", BUILD / "site")


if __name__ == "__main__":
    main()
