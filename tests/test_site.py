"""The built site, opened in a real browser that may talk to nobody but this machine.

The site is what `make book` left in build/site; `make test` builds it first.
"""

import functools
import re
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

SOURCES = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("[0-9][0-9]_*.py"))
CHAPTERS = [f"notebooks/{path.stem}.html" for path in SOURCES]
PAGES = ["book/intro.html", "book/glossary.html", "book/status.html", "book/bibliography.html", *CHAPTERS]
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
HARMLESS = "strict mode: use allowUnionTypes"  # the widget player's schema checker, on its own schema

pytestmark = pytest.mark.browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser(browser_path):
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=QUIET)
        yield browser
        browser.close()


class Visit:
    """A page, what it asked of other hosts, and what it complained about."""

    def __init__(self, context, address):
        self.page, self.address = context.new_page(), address
        self.outside, self.complaints = [], []
        context.route(re.compile(rf"^(?!{re.escape(address)}|data:|blob:)"), self.refuse)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self.hear)
        self.page.on(
            "response", lambda answer: answer.status >= 400 and self.complaints.append(f"{answer.status} {answer.url}")
        )

    def refuse(self, route):
        self.outside.append(route.request.url)
        route.abort()

    def hear(self, message):
        if message.type in ("error", "warning") and HARMLESS not in message.text:
            self.complaints.append(message.text)

    def open(self, path):
        self.page.goto(self.address + path, wait_until="load")
        return self.page


@pytest.fixture
def visit(browser, address):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield Visit(context, address)
    context.close()


@pytest.fixture(scope="module")
def opened(request, browser, address):
    """The visit of one page, until it asks for nothing more; every test of that page shares it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    visit = Visit(context, address)
    visit.open(request.param).wait_for_load_state("networkidle")
    yield visit
    context.close()


every_page = pytest.mark.parametrize("opened", PAGES, indirect=True)
every_chapter = pytest.mark.parametrize("opened", CHAPTERS, indirect=True)


@every_page
def test_page_needs_no_other_host_and_logs_no_error(opened):
    assert opened.outside == []
    assert opened.complaints == []


@pytest.mark.parametrize("path", PAGES)
def test_page_fits_a_phone(browser, address, path):
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = Visit(context, address).open(path)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


@every_chapter
def test_mathematics_is_set(opened):
    page = opened.page
    page.wait_for_selector("mjx-container", timeout=15_000)
    page.evaluate("MathJax.startup.promise")
    assert page.locator("mjx-merror").count() == 0
    assert page.locator(".math").count() == page.locator(".math:has(mjx-container)").count()


@every_chapter
def test_pictures_are_there(opened):
    missing = "[...document.images].filter(i => i.checkVisibility() && !(i.complete && i.naturalWidth)).map(i => i.src)"
    assert opened.page.evaluate(missing) == []


@every_chapter
def test_pictures_are_described(opened):
    described = opened.page.eval_on_selector_all(".cell_output img", "images => images.map(image => image.alt)")
    assert described
    assert all(len(words) > 20 and not words.endswith(".png") for words in described), described


@every_chapter
def test_chapter_can_be_downloaded_and_launched(opened):
    links = opened.page.eval_on_selector_all("a[href]", "links => links.map(link => link.href)")
    name = Path(opened.page.url).stem
    assert any(
        link.startswith("https://colab.research.google.com/") and link.endswith(f"notebooks/{name}.ipynb") for link in links
    )
    assert any(link.startswith("https://mybinder.org/") and f"notebooks/{name}.ipynb" in unquote(link) for link in links)
    assert any(link.endswith(f"{name}.ipynb") and link.startswith(opened.address) for link in links)


@every_chapter
def test_slider_moves_the_picture_without_a_kernel(opened):
    page = opened.page
    page.wait_for_selector(".noUi-handle", timeout=15_000)
    picture = page.locator(".jupyter-widgets img:visible").first
    assert picture.get_attribute("alt")
    before = picture.get_attribute("src")
    page.locator(".noUi-handle").first.press("ArrowRight")
    expect(picture).not_to_have_attribute("src", before, timeout=5_000)
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


@every_chapter
def test_solution_shows_only_when_asked_for(opened):
    hidden = opened.page.locator("details.hide", has=opened.page.get_by_text("Show the solution")).first
    solution = hidden.locator("pre").first
    assert not solution.is_visible()
    hidden.locator("summary").click()
    assert solution.is_visible()
    assert "Solution" in solution.inner_text()


def test_search_finds_a_word(visit):
    page = visit.open("search.html?q=trousers")
    page.wait_for_selector("#search-results li a", timeout=15_000)
    assert "Start here" in page.locator("#search-results").inner_text()


def test_dark_mode_can_be_chosen(visit):
    page = visit.open("book/intro.html")
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = {page.evaluate("document.documentElement.dataset.theme"): page.evaluate(ground)}
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        page.wait_for_timeout(400)
        seen[page.evaluate("document.documentElement.dataset.theme")] = page.evaluate(ground)
    assert set(seen) == {"light", "dark"}
    assert seen["light"] != seen["dark"]


class Links(HTMLParser):
    """The targets and the anchors of one page."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.targets |= {found[name] for name in ("href", "src") if found.get(name)}
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}


def test_every_internal_link_leads_somewhere(site):
    pages = {
        path.relative_to(site).as_posix(): Links(path.read_text(encoding="utf-8"))
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    dead = []
    for name, links in pages.items():
        for target in links.targets:
            if urlsplit(target).scheme or target.startswith("//"):
                continue
            path, anchor = urldefrag(urljoin(f"/{name}", target))
            path = unquote(urlsplit(path).path).lstrip("/")
            exists = (site / path).is_file() and (not anchor or path not in pages or unquote(anchor) in pages[path].anchors)
            dead += [] if exists else [f"{name} -> {target}"]
    assert len(pages) >= len(PAGES)
    assert dead == []
